//! Properties of the decision, and the cases that the configuration promises.

use proptest::prelude::*;

use super::*;

fn start() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(|| Instant::now() + ms(10_000))
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn limits(max_cost: usize) -> Limits {
    Limits {
        max_cost,
        max_rows: usize::MAX,
        pads: false,
        preferred: Vec::new(),
        max_delay: Duration::ZERO,
        in_order: false,
    }
}

fn waiting(cost: usize) -> Waiting {
    Waiting {
        cost,
        length: 1,
        key: ShapeKey::default(),
        alone: false,
        queued: start(),
        deadline: None,
    }
}

fn shaped(cost: usize, size: usize) -> Waiting {
    Waiting {
        key: ShapeKey(Shape::from([size])),
        ..waiting(cost)
    }
}

fn decide_all(queue: &[Waiting], limits: &Limits, now: Instant) -> Decision {
    let candidates = queue.iter().map(|waiting| Candidate {
        waiting,
        cancelled: false,
    });
    decide(candidates, limits, forecast(&|_| Duration::ZERO), now)
}

/// As if more waited than fits into one batch.
fn forecast(run: &dyn Fn(usize) -> Duration) -> Forecast<'_> {
    Forecast {
        waiting: usize::MAX,
        run,
    }
}

/// Decides where a row takes this many milliseconds, for requests of one row with so many left, or without a deadline (0).
#[track_caller]
fn check_left(per_row: u64, left: &[u64], max_cost: usize, expected: &[usize]) {
    let queue: Vec<Waiting> = left
        .iter()
        .map(|&left| Waiting {
            deadline: (left > 0).then(|| start() + ms(left)),
            ..waiting(1)
        })
        .collect();
    let candidates = queue.iter().map(|waiting| Candidate {
        waiting,
        cancelled: false,
    });
    let forecast = Forecast {
        waiting: queue.len(),
        run: &|cost| ms(per_row * cost as u64),
    };
    let decision = decide(candidates, &limits(max_cost), forecast, start());
    assert_eq!(decision, Decision::Run(expected.to_vec()), "{left:?}");
}

#[test]
fn what_is_late_even_alone_leaves_its_place_to_others() {
    let check = |left: &[u64], expected: &[usize]| check_left(3, left, 8, expected);
    check(&[9, 2, 9], &[0, 2]);
    check(&[2, 0, 1], &[1]);
    // Late together, in time alone: not for the policy to say who is dropped.
    check(&[3, 3, 3], &[0, 1, 2]);
}

#[test]
fn nobody_is_waited_for_beside_one_who_was_passed_over() {
    let late = Waiting {
        deadline: Some(start() + ms(1)),
        ..waiting(1)
    };
    let queue = [late, waiting(1)];
    let candidates = queue.iter().map(|waiting| Candidate {
        waiting,
        cancelled: false,
    });
    let patient = Limits {
        max_delay: ms(100),
        ..limits(8)
    };
    let decision = decide(candidates.clone(), &patient, forecast(&|_| ms(5)), start());
    assert_eq!(decision, Decision::Run(vec![1]));
    let in_order = Limits {
        in_order: true,
        ..limits(8)
    };
    let decision = decide(candidates, &in_order, forecast(&|_| ms(5)), start());
    assert_eq!(decision, Decision::Run(vec![0, 1]));
}

#[test]
fn a_forecast_that_leaves_nobody_a_chance_is_not_believed() {
    let queue = [1, 1].map(|left| Waiting {
        deadline: Some(start() + ms(left)),
        ..waiting(1)
    });
    let candidates = queue.iter().map(|waiting| Candidate {
        waiting,
        cancelled: false,
    });
    let decision = decide(candidates, &limits(8), forecast(&|_| ms(1000)), start());
    assert_eq!(decision, Decision::Run(vec![0, 1]));
}

#[track_caller]
fn check(queue: &[Waiting], limits: &Limits, expected: &[usize]) {
    assert_eq!(
        decide_all(queue, limits, start()),
        Decision::Run(expected.to_vec())
    );
}

#[test]
fn without_delay_what_is_there_runs_at_once() {
    check(&[waiting(1)], &limits(8), &[0]);
    check(&[waiting(1), waiting(2), waiting(4)], &limits(8), &[0, 1, 2]);
    assert_eq!(decide_all(&[], &limits(8), start()), Decision::Idle);
}

#[test]
fn the_first_that_does_not_fit_ends_the_batch() {
    check(&[waiting(4), waiting(5), waiting(1)], &limits(8), &[0]);
}

#[test]
fn a_request_above_the_cap_runs_alone() {
    check(&[waiting(9), waiting(1)], &limits(8), &[0]);
    check(&[waiting(1), waiting(9)], &limits(8), &[0]);
}

#[test]
fn other_shapes_are_passed_over_unless_order_is_kept() {
    let queue = [shaped(1, 7), shaped(1, 9), shaped(1, 7)];
    check(&queue, &limits(8), &[0, 2]);
    let in_order = Limits {
        in_order: true,
        ..limits(8)
    };
    check(&queue, &in_order, &[0]);
}

/// `rows` rows of `length` elements each.
fn long(rows: usize, length: usize) -> Waiting {
    Waiting {
        length,
        ..waiting(rows * length)
    }
}

#[test]
fn lengths_that_would_waste_more_than_an_eighth_are_passed_over() {
    let pads = Limits {
        pads: true,
        ..limits(1000)
    };
    // 2 × 10 computed for 18 given; with the 5 it would be 30 for 23.
    check(&[long(1, 10), long(1, 5), long(1, 8)], &pads, &[0, 2]);
    check(
        &[long(1, 100), long(1, 4), long(1, 90), long(1, 4)],
        &pads,
        &[0, 2],
    );
    // What is skipped is not wasted.
    check(
        &[long(1, 100), long(1, 4), long(1, 90)],
        &limits(1000),
        &[0, 1, 2],
    );
    let in_order = Limits {
        in_order: true,
        ..pads
    };
    check(&[long(1, 10), long(1, 5), long(1, 8)], &in_order, &[0]);
}

#[test]
fn rows_and_elements_bound_a_batch_padding_included() {
    let few = Limits {
        max_rows: 2,
        ..limits(1000)
    };
    check(&[long(1, 7), long(1, 5), long(1, 3)], &few, &[0, 1]);
    check(&[long(2, 7), long(1, 5)], &few, &[0]);
    let pads = Limits {
        pads: true,
        ..limits(25)
    };
    check(&[long(1, 8), long(1, 9), long(1, 8)], &pads, &[0, 1]);
    check(&[long(1, 8), long(1, 8), long(1, 8)], &pads, &[0, 1, 2]);
    check(&[long(1, 8), long(1, 9), long(1, 8)], &limits(25), &[0, 1, 2]);
}

#[test]
fn the_largest_preferred_size_is_taken() {
    let preferring = |preferred: &[usize]| Limits {
        preferred: preferred.to_vec(),
        ..limits(16)
    };
    let queue = vec![waiting(1); 10];
    check(&queue, &preferring(&[4, 8]), &[0, 1, 2, 3, 4, 5, 6, 7]);
    check(&queue[..3], &preferring(&[4, 8]), &[0, 1, 2]);
    check(&[waiting(3), waiting(3)], &preferring(&[4]), &[0, 1]);
}

#[test]
fn a_delay_waits_for_more_and_no_longer_than_it_says() {
    let limits = Limits {
        max_delay: ms(5),
        ..limits(4)
    };
    let mut queue = vec![waiting(1), waiting(2)];
    let until = start() + ms(5);
    let expected = Decision::Wait { until, enough: 4 };
    assert_eq!(decide_all(&queue, &limits, start()), expected);
    assert_eq!(decide_all(&queue, &limits, until), Decision::Run(vec![0, 1]));
    queue.push(waiting(1));
    assert_eq!(decide_all(&queue, &limits, start()), Decision::Run(vec![0, 1, 2]));
}

#[test]
fn a_delay_waits_for_the_next_preferred_size() {
    let limits = Limits {
        preferred: vec![2, 6],
        max_delay: ms(5),
        ..limits(8)
    };
    let until = start() + ms(5);
    let expected = Decision::Wait { until, enough: 6 };
    assert_eq!(decide_all(&[waiting(3)], &limits, start()), expected);
    assert_eq!(
        decide_all(&[waiting(1), waiting(1)], &limits, start()),
        Decision::Run(vec![0, 1])
    );
}

#[test]
fn a_delay_ends_early_for_a_member_with_a_deadline() {
    let limits = Limits {
        max_delay: ms(100),
        ..limits(4)
    };
    let urgent = Waiting {
        deadline: Some(start() + ms(20)),
        ..waiting(1)
    };
    let candidates = [waiting(1), urgent];
    let candidates = candidates.iter().map(|waiting| Candidate {
        waiting,
        cancelled: false,
    });
    let until = start() + ms(8);
    assert_eq!(
        decide(candidates, &limits, forecast(&|_| ms(4)), start()),
        Decision::Wait { until, enough: 4 }
    );
}

/// A queue of up to 40 requests, some of them gone, at times around `start`.
fn queue() -> impl Strategy<Value = Vec<(Waiting, bool)>> {
    let request = (
        0usize..6,
        0usize..3,
        prop::bool::weighted(0.1),
        0u64..20,
        prop::option::weighted(0.4, 0u64..20),
        prop::bool::weighted(0.2),
    );
    let request = request.prop_map(|(cost, size, alone, age, deadline, cancelled)| {
        let waiting = Waiting {
            alone: alone || cost == 0,
            queued: start() - ms(age),
            deadline: deadline.map(|deadline| start() - ms(10) + ms(deadline)),
            ..shaped(cost, size)
        };
        (waiting, cancelled)
    });
    prop::collection::vec(request, 0..40)
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (
        1usize..12,
        prop::collection::vec(1usize..12, 0..3),
        0u64..15,
        any::<bool>(),
    )
        .prop_map(|(max_cost, preferred, delay, in_order)| Limits {
            max_cost,
            preferred: preferred.into_iter().filter(|&cost| cost <= max_cost).collect(),
            max_delay: ms(delay),
            in_order,
            ..limits(max_cost)
        })
}

proptest! {
    #[test]
    fn decisions_keep_their_promises(queue in queue(), limits in any_limits(), run in 0u64..5) {
        let now = start();
        let run_time = ms(run);
        let at = |now| {
            let candidates = queue.iter().map(|(waiting, cancelled)| Candidate { waiting, cancelled: *cancelled });
            decide(candidates, &limits, forecast(&|cost| run_time * u32::try_from(cost.min(12)).unwrap()), now)
        };
        let not_expired = |k: usize| !queue[k].1 && queue[k].0.deadline.is_none_or(|deadline| deadline > now);
        let makes_it = |k: usize| {
            let run = run_time * u32::try_from(queue[k].0.cost).unwrap();
            queue[k].0.deadline.is_none_or(|deadline| deadline >= now + run)
        };
        let mut live: Vec<usize> = (0..queue.len()).filter(|&k| not_expired(k)).collect();
        // Those who would be late do not count, unless all would be, or order is kept.
        let passed_over = !limits.in_order && live.iter().any(|&k| makes_it(k)) && !live.iter().all(|&k| makes_it(k));
        if passed_over {
            live.retain(|&k| makes_it(k));
        }
        match at(now) {
            Decision::Idle => prop_assert!(live.is_empty()),
            Decision::Wait { until, enough } => {
                prop_assert!(!limits.max_delay.is_zero() && until > now && enough <= limits.max_cost);
                prop_assert!(!passed_over, "waiting beside one who was passed over");
                let oldest = live.iter().map(|&k| queue[k].0.queued).max().unwrap();
                prop_assert!(until <= oldest + limits.max_delay);
                prop_assert!(matches!(at(until), Decision::Run(_)), "waiting longer than announced");
            }
            Decision::Run(chosen) => {
                prop_assert_eq!(chosen.first(), live.first(), "the first live request is always in the batch");
                prop_assert!(chosen.is_sorted_by(|a, b| a < b), "in service order, each once");
                prop_assert!(chosen.iter().all(|k| live.contains(k)), "cancelled or expired ones were chosen");
                let first = &queue[chosen[0]].0;
                if chosen.len() > 1 {
                    let cost: usize = chosen.iter().map(|&k| queue[k].0.cost).sum();
                    prop_assert!(cost <= limits.max_cost);
                    prop_assert!(chosen.iter().all(|&k| !queue[k].0.alone && queue[k].0.key == first.key));
                }
                let last = *chosen.last().unwrap();
                let overtaken = live.iter().filter(|&&k| k < last && !chosen.contains(&k));
                for &k in overtaken {
                    let other = &queue[k].0;
                    prop_assert!(!limits.in_order, "overtaken although order is kept");
                    prop_assert!(other.alone || other.key != first.key, "overtaken by its own shape");
                }
            }
        }
    }
}

mod merge_rule {
    use std::sync::Arc;

    use bytes::Bytes;
    use crossfade_runtimes_core::{Datatype, ShapeSpec, TensorSpec};

    use super::*;

    fn signature(batched: bool, shapes: &[&[i64]]) -> ModelSignature {
        let spec = |(k, dims): (usize, &&[i64])| {
            TensorSpec::new(
                Arc::from(format!("x{k}")),
                Datatype::Uint8,
                ShapeSpec::from(&dims[..]),
            )
        };
        ModelSignature {
            inputs: shapes.iter().enumerate().map(spec).collect(),
            batched,
            ..ModelSignature::default()
        }
    }

    fn tensor(dims: &[usize]) -> Option<Tensor> {
        Some(Tensor {
            datatype: Datatype::Uint8,
            shape: Shape::from(dims),
            data: Bytes::new(),
        })
    }

    #[test]
    fn variable_dimensions_besides_the_rows_must_agree() {
        let rule = MergeRule::new(&signature(true, &[&[-1, 4, -1]]), true);
        let key = |dims: &[usize]| rule.key(&[tensor(dims)], dims[0]);
        assert_eq!(key(&[1, 4, 7]), key(&[3, 4, 7]));
        assert_ne!(key(&[1, 4, 7]), key(&[1, 4, 8]));
        assert!(key(&[0, 4, 7]).1, "a request without rows runs alone");
    }

    #[test]
    fn optional_inputs_must_agree_in_presence() {
        let mut signature = signature(true, &[&[-1, -1], &[-1]]);
        signature.inputs[0].optional = true;
        let rule = MergeRule::new(&signature, true);
        let key = |inputs: &[Option<Tensor>]| rule.key(inputs, 1).0;
        assert_ne!(key(&[None, tensor(&[1])]), key(&[tensor(&[1, 1]), tensor(&[1])]));
        assert_eq!(key(&[None, tensor(&[1])]), key(&[None, tensor(&[2])]));
    }

    #[test]
    fn lengths_that_are_filled_up_need_not_agree_where_every_such_input_is_there() {
        let mut signature = signature(true, &[&[-1, -1], &[-1, -1], &[-1, -1]]);
        for spec in &mut signature.inputs[..2] {
            spec.padding = Some(crossfade_runtimes_core::Padding { dim: 1, fill: 0 });
        }
        signature.inputs[1].optional = true;
        let rule = MergeRule::new(&signature, true);
        let inputs = |a: usize, b: Option<usize>, c: usize| {
            let mask = b.and_then(|b| tensor(&[1, b]));
            [tensor(&[1, a]), mask, tensor(&[1, c])]
        };
        let key = |inputs: &[Option<Tensor>]| rule.key(inputs, 1).0;
        let (three, five) = (inputs(3, Some(3), 9), inputs(5, Some(5), 9));
        assert_eq!(key(&three), key(&five));
        assert_eq!((rule.length(&three), rule.length(&five)), (3, 5));
        assert_ne!(key(&three), key(&inputs(3, Some(3), 8)), "what is not filled up");
        assert_ne!(
            key(&inputs(3, None, 9)),
            key(&inputs(5, None, 9)),
            "no mask tells them apart"
        );
        assert_ne!(
            key(&inputs(3, Some(4), 9)),
            key(&three),
            "the model refuses it, alone"
        );
        assert_eq!(rule.length(&inputs(0, Some(0), 9)), 1);
    }

    #[test]
    fn models_without_a_variable_batch_dimension_never_merge() {
        assert!(MergeRule::new(&signature(true, &[&[-1, 4]]), true).merges());
        assert!(!MergeRule::new(&signature(true, &[&[-1, 4]]), false).merges());
        assert!(!MergeRule::new(&signature(false, &[&[-1, 4]]), true).merges());
        assert!(!MergeRule::new(&signature(true, &[&[-1, 4], &[8, 4]]), true).merges());
        assert!(!MergeRule::new(&signature(true, &[&[]]), true).merges());
    }
}
