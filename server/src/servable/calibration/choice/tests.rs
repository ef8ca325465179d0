//! Facts of the choice.

use super::*;

fn slice(rows_per_s: f64) -> Slice {
    Slice {
        rows_per_s,
        sound: true,
    }
}

/// Sound rounds of the same rate of the shared way, 100 rows/s, and these of the single one.
fn rounds(single: &[f64]) -> Vec<Round> {
    let round = |&single: &f64| Round::of(Way::Shared, slice(100.0), slice(single));
    single.iter().map(round).collect()
}

fn disturbed(mut rounds: Vec<Round>) -> Vec<Round> {
    for round in &mut rounds {
        round.single.sound = false;
    }
    rounds
}

fn check(rounds: &[Round], current: Way, expected: Option<Way>) {
    let way = match judge(rounds, current) {
        Judgement::Chosen(choice) => Some(choice.way),
        Judgement::More | Judgement::Disturbed => None,
    };
    assert_eq!(way, expected, "{rounds:?}, now {current:?}");
}

#[test]
fn the_other_way_must_be_clearly_better() {
    check(&rounds(&[106.0; 5]), Way::Shared, Some(Way::Single));
    check(&rounds(&[104.0; 5]), Way::Shared, Some(Way::Shared));
    check(&rounds(&[94.0; 5]), Way::Single, Some(Way::Shared));
    check(&rounds(&[96.0; 5]), Way::Single, Some(Way::Single));
}

#[test]
fn between_the_two_bounds_whatever_serves_stays() {
    for single in [96.0, 100.0, 104.0] {
        for way in [Way::Shared, Way::Single] {
            check(&rounds(&[single; 5]), way, Some(way));
        }
    }
}

#[test]
fn rounds_that_disagree_change_nothing() {
    // The median gain is 1.2, but two of five rounds say the contrary.
    check(
        &rounds(&[90.0, 95.0, 120.0, 130.0, 125.0]),
        Way::Shared,
        Some(Way::Shared),
    );
    check(
        &rounds(&[95.0, 119.0, 120.0, 130.0, 125.0]),
        Way::Shared,
        Some(Way::Single),
    );
}

#[test]
fn a_disturbed_round_counts_for_nothing() {
    // The convolutional net of docs/benchmarks.md: beside a load, one thread each seemed slower than it was.
    let mut both = disturbed(rounds(&[60.0; 6]));
    both.extend(rounds(&[125.0; 4]));
    assert_eq!(judge(&both, Way::Shared), Judgement::More);
    both.extend(rounds(&[125.0]));
    check(&both, Way::Shared, Some(Way::Single));
    let Judgement::Chosen(choice) = judge(&both, Way::Shared) else {
        panic!("not chosen");
    };
    assert_eq!((choice.shared, choice.single, choice.rounds), (100.0, 125.0, 5));
}

#[test]
fn nothing_is_known_where_all_is_disturbed() {
    let all = disturbed(rounds(&[60.0; MOST]));
    assert_eq!(judge(&[], Way::Shared), Judgement::More);
    assert_eq!(judge(&all[..HOPELESS - 1], Way::Shared), Judgement::More);
    assert_eq!(judge(&all[..HOPELESS], Way::Shared), Judgement::Disturbed);
    let mut some = rounds(&[125.0; ENOUGH - 1]);
    some.extend(&all[..MOST - ENOUGH]);
    assert_eq!(judge(&some, Way::Shared), Judgement::More);
    some.push(all[0]);
    assert_eq!(judge(&some, Way::Shared), Judgement::Disturbed);
}

#[test]
fn what_ran_nothing_is_not_sound() {
    check(&rounds(&[0.0; 5]), Way::Single, None);
}
