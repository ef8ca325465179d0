use proptest::prelude::*;
use serde_json::json;

use super::*;

fn check(input: &str, expected: &str) {
    let value: Value = serde_json::from_str(input).unwrap();
    assert_eq!(canonical(&value).unwrap(), expected);
}

#[test]
fn the_sample_of_the_rfc_comes_out() {
    // RFC 8785 §3.2.2 and §3.2.4.
    check(
        r#"{
          "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
          "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
          "literals": [null, true, false]
        }"#,
        "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
         \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}",
    );
}

#[test]
fn names_are_sorted_by_their_utf_16_units() {
    // RFC 8785 §3.2.3: the emoji's surrogates come before U+FB33, which UTF-8 would put first.
    check(
        r#"{"\u20ac":"Euro","\r":"CR","\ufb33":"Dalet","1":"One","\ud83d\ude00":"Emoji","\u0080":"Control","\u00f6":"o"}"#,
        "{\"\\r\":\"CR\",\"1\":\"One\",\"\u{80}\":\"Control\",\"ö\":\"o\",\"€\":\"Euro\",\"😀\":\"Emoji\",\"\u{fb33}\":\"Dalet\"}",
    );
}

#[test]
fn only_what_has_to_be_is_escaped() {
    let all: String = (0..0x80_u8).map(char::from).collect();
    let expected = "\"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\\u000b\\f\\r\\u000e\\u000f\
        \\u0010\\u0011\\u0012\\u0013\\u0014\\u0015\\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c\\u001d\\u001e\\u001f \
        !\\\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\\\]^_`abcdefghijklmnopqrstuvwxyz{|}~\u{7f}\"";
    assert_eq!(text(&all), expected);
    assert_eq!(text("\u{2028}\u{fffd}"), "\"\u{2028}\u{fffd}\"");
}

#[test]
fn empty_and_nested_values_have_no_spaces() {
    check(
        " [ { } , [ ] , { \"b\" : [ 1 , 2 ] , \"a\" : \"\" } ] ",
        r#"[{},[],{"a":"","b":[1,2]}]"#,
    );
}

#[test]
fn what_cannot_be_read_back_is_refused() {
    let mut deep = json!(1);
    for _ in 0..MAX_DEPTH {
        deep = json!([deep]);
    }
    let text = canonical(&deep).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), deep);
    assert_eq!(canonical(&json!([deep])), Err(NotCanonical::Depth));
    assert_eq!(
        canonical(&json!({"a": [u64::MAX]})),
        Err(NotCanonical::Integer("18446744073709551615".to_owned()))
    );
}

/// Values whose numbers are read back as the kind they were: integers that doubles hold, and doubles that are none.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-(1_i64 << 53)..=1 << 53).prop_map(Value::from),
        any::<f64>()
            .prop_filter("a double that is no integer", |value| value.is_finite()
                && value.fract() != 0.0)
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_canonical_spelling_says_the_same_and_is_its_own(value in value()) {
        let text = canonical(&value).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &value);
        prop_assert_eq!(canonical(&read).unwrap(), text);
    }

    #[test]
    fn the_order_of_members_does_not_matter(members in prop::collection::vec(any::<String>(), 0..8)) {
        let forward: Map<String, Value> = members.iter().map(|name| (name.clone(), json!(name))).collect();
        let backward: Map<String, Value> = members.iter().rev().map(|name| (name.clone(), json!(name))).collect();
        prop_assert_eq!(canonical(&Value::Object(forward)), canonical(&Value::Object(backward)));
    }
}
