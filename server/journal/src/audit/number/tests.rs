use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn of(bits: u64) -> String {
    let mut out = String::new();
    double(f64::from_bits(bits), &mut out);
    out
}

fn canonical(text: &str) -> Result<String, NotCanonical> {
    let number: Number = serde_json::from_str(text).unwrap();
    let mut out = String::new();
    write(&number, &mut out).map(|()| out)
}

#[test]
fn doubles_are_those_of_the_rfc() {
    // RFC 8785, appendix B.
    for (bits, expected) in [
        (0x0000_0000_0000_0000, "0"),
        (0x8000_0000_0000_0000, "0"),
        (0x0000_0000_0000_0001, "5e-324"),
        (0x8000_0000_0000_0001, "-5e-324"),
        (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
        (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
        (0x4340_0000_0000_0000, "9007199254740992"),
        (0xc340_0000_0000_0000, "-9007199254740992"),
        (0x4430_0000_0000_0000, "295147905179352830000"),
        (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
        (0x44b5_2d02_c7e1_4af6, "1e+23"),
        (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
        (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
        (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
        (0x444b_1ae4_d6e2_ef50, "1e+21"),
        (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
        (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
        (0x41b3_de43_5555_5553, "333333333.3333332"),
        (0x41b3_de43_5555_5554, "333333333.33333325"),
        (0x41b3_de43_5555_5555, "333333333.3333333"),
        (0x41b3_de43_5555_5556, "333333333.3333334"),
        (0x41b3_de43_5555_5557, "333333333.33333343"),
        (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
    ] {
        assert_eq!(of(bits), expected, "{bits:016x}");
    }
}

#[test]
fn integers_are_kept_or_refused() {
    for text in [
        "0",
        "-1",
        "9007199254740992",
        "-9007199254740992",
        "9223372036854776000",
        "18446744073709552000",
        "100000000000000000000",
    ] {
        assert_eq!(canonical(text).as_deref(), Ok(text));
    }
    for text in [
        "9007199254740993",
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551615",
    ] {
        assert_eq!(canonical(text), Err(NotCanonical::Integer(text.to_owned())));
    }
}

#[test]
fn other_spellings_become_one() {
    for (text, expected) in [
        ("-0", "0"),
        ("-0.0", "0"),
        ("10.0", "10"),
        ("1E2", "100"),
        ("4.50", "4.5"),
        ("2e-3", "0.002"),
        ("0.1e-6", "1e-7"),
        ("123456789012345678901", "123456789012345680000"),
        ("1e21", "1e+21"),
    ] {
        assert_eq!(canonical(text).as_deref(), Ok(expected), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_double_is_read_back_and_as_short_as_can_be(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let text = of(bits);
        prop_assert_eq!(text.parse::<f64>().unwrap(), value);
        // The standard library finds how many digits are needed, and rounds to as many, in other ways; its own shortest
        // form does not decide ties to even, as the last number of appendix B wants.
        let (shortest, _) = decimal(&format!("{:e}", value.abs()));
        let (rounded, _) = decimal(&format!("{:.*e}", shortest.len() - 1, value.abs()));
        let written = text.trim_start_matches('-');
        prop_assert_eq!(decimal(&written.replace("e+", "e")).0, rounded);
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(canonical(&read.to_string()).unwrap(), text);
    }

    #[test]
    fn an_integer_is_read_back_or_refused(number in any::<i64>(), shift in 0_u32..63) {
        let text = (number >> shift).to_string();
        match canonical(&text) {
            Ok(written) => prop_assert_eq!(written, text),
            Err(problem) => {
                prop_assert_eq!(problem, NotCanonical::Integer(text));
                prop_assert!((number >> shift).unsigned_abs() > 1 << 53);
            }
        }
    }
}
