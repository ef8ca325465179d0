"""Versions change under full load over both protocols, in four ways, and no request notices."""

import pytest
import swap


@pytest.mark.parametrize("mode", swap.MODES)
def test_no_request_fails_and_every_answer_fits_its_version(mode):
    report = swap.run(mode, seconds=1.5)
    print(report)
    assert not report.complaints, report
