"""`python -m unittest` in this folder: what the report makes of rows. Needs no peer and no package."""

import json
import unittest

import plots
import report


def row(peer, round_number, throughput, protocol="grpc", **figures):
    return {
        "model": "m",
        "peer": peer,
        "round": round_number,
        "protocol": protocol,
        "concurrency": 8,
        "ok": 10,
        "errors": {},
        "throughput_per_s": throughput,
        "p50_us": 100,
        "p99_us": 200,
        "p999_us": 300,
        "cpu_us": 50.0,
        "memory_bytes": 2e6,
        **figures,
    }


def result(runs):
    peers = dict.fromkeys(run["peer"] for run in runs)
    return {
        "starts": [{"model": "m", "peer": peer, "round": 0, "seconds": 1.0, "attempts": 1} for peer in peers],
        "runs": runs,
    }


def measured(model, commit, **more):
    return {
        **dict.fromkeys(("schema", "machine", "threads", "rounds", "seconds"), 1),
        "models": {},
        "command": f"measure {model}",
        "started": "2026-11-22T10:00:00",
        "versions": {"crossfade": {"version": "0.1.0", "commit": commit}, "a": {"version": "1"}},
        "starts": [{"model": model, "peer": "a"}],
        "runs": [{"model": model, "peer": "a", "commit": commit}],
        **more,
    }


class Report(unittest.TestCase):
    def test_a_model_measured_again_takes_the_place_of_the_earlier_rows(self):
        earlier = measured("m", "c1")
        earlier["runs"].append({"model": "other", "peer": "a", "commit": "c1"})
        both = report.joined(earlier, measured("m", "c2", runs=[], starts=[]), ["m"])
        self.assertEqual([row["model"] for row in both["runs"]], ["other"])
        self.assertEqual(
            report.commands(both), "`measure m`, 2026-11-22, at c1; then `measure m`, 2026-11-22, at c2"
        )
        with self.assertRaisesRegex(ValueError, "rounds"):
            report.joined(earlier, measured("m", "c2", rounds=2), ["m"])
        newer = {"crossfade": {"version": "0.1.0", "commit": "c2"}, "a": {"version": "2"}}
        with self.assertRaisesRegex(ValueError, "a is another one there"):
            report.joined(earlier, measured("m", "c2", versions=newer), ["m"])

    def test_a_cell_is_the_median_of_its_rounds_and_says_their_spread(self):
        rows = [row("a", number, throughput) for number, throughput in enumerate([100.0, 400.0, 200.0])]
        cell = report.cells(result(rows))["m", "gRPC", "a", 8]
        self.assertEqual(cell["throughput_per_s"], 200.0)
        self.assertEqual(cell["spread"], 1.5)

    def test_errors_are_summed_and_failed_rounds_counted(self):
        broken = {
            "model": "m",
            "peer": "a",
            "round": 1,
            "protocol": "grpc",
            "concurrency": 8,
            "error": "ValueError: no",
        }
        cell = report.cells(result([row("a", 0, 5.0, errors={"503": 4}), broken]))["m", "gRPC", "a", 8]
        self.assertEqual((cell["errors"], cell["failed_rounds"], cell["why"]), (4, 1, "ValueError: no"))
        self.assertEqual(report.errors_of([cell]), "4, and 1 rounds failed")

    def test_a_cell_without_any_answer_has_no_figures_and_is_listed(self):
        found = result([row("a", 0, 0.0, ok=0), row("b", 0, 1.0)])
        self.assertNotIn("throughput_per_s", report.cells(found)["m", "gRPC", "a", 8])
        self.assertIn("| a | – |", report.table(found, "m", "gRPC"))
        self.assertEqual(report.failed(found), ["m, gRPC, a, 8 in flight: no request succeeded"])

    def test_the_best_of_a_column_is_bold_whoever_it_is(self):
        found = result([row("crossfade", 0, 1000.0), row("mosec", 0, 2345.0, cpu_us=20.0)])
        lines = report.table(found, "m", "gRPC").splitlines()
        self.assertIn("| mosec | **2 345** |", lines[3])
        self.assertIn("**20**", lines[3])
        self.assertIn("| crossfade | 1 000 |", lines[2])

    def test_cells_that_another_wins_are_counted_and_named_worst_first(self):
        found = result([row("crossfade", 0, 1000.0), row("mosec", 0, 2000.0, cpu_us=10.0, p99_us=900)])
        compared, losses = report.lost(found)
        self.assertEqual(compared, 3)
        self.assertEqual(
            losses,
            [
                "m, gRPC, 8 in flight, CPU: mosec is 5.00× ahead",
                "m, gRPC, 8 in flight, throughput: mosec is 2.00× ahead",
            ],
        )

    def test_bytes_are_compared_with_binary_http_and_lists_with_json(self):
        found = report.cells(
            result([row("a", 0, 1.0, "bytes"), row("b", 0, 1.0, "http-json"), row("c", 0, 1.0, "json")])
        )
        self.assertEqual([key[1] for key in found], ["HTTP binary", "HTTP JSON", "HTTP JSON"])

    def test_the_written_result_is_the_result(self):
        found = {"schema": 1, **result([row("a", 0, 1.0), row("a", 1, 2.0)])}
        self.assertEqual(json.loads(report.compact(found)), found)

    def test_a_run_that_the_load_tester_limits_is_named(self):
        found = result([row("a", 0, 1.0, tester_is_bottleneck=True), row("a", 1, 1.0, tester_is_bottleneck=True)])
        self.assertEqual(report.limited(found), ["m, grpc, a, 8 in flight: the load tester was the bottleneck"])

    def test_numbers_have_three_digits_or_are_whole(self):
        self.assertEqual([report.count(v) for v in (12345.6, 99.94, 0.1234)], ["12 346", "99.9", "0.123"])
        self.assertEqual([report.milliseconds(v) for v in (123456, 1234, 89)], ["123", "1.23", "0.089"])

    def test_an_axis_spans_whole_decades(self):
        axis = plots.Axis(20, 3000)
        self.assertEqual(axis.ticks(), [10.0, 100.0, 1000.0, 10000.0])
        self.assertEqual(axis.place(10), 0)
        self.assertAlmostEqual(axis.place(10000), plots.PANEL)


if __name__ == "__main__":
    unittest.main()
