"""The self-test passes where metrics work, and fails loudly where one does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Genzoo

from genzoo.errors import InputError
from genzoo.evaluation import METRICS, self_test, selftest
from genzoo.evaluation.measured import Measured
from genzoo.evaluation.selftest import Expectation, Scored, SelfTest
from genzoo.evaluation.view import View


@pytest.fixture(scope="module")
def digits() -> SelfTest:
    return self_test("digits")


def test_digits_pass(digits: SelfTest) -> None:
    """Fails with: any metric turned round."""
    assert not digits.failed, [str(e) for e in digits.failed]
    assert digits.failure is None and digits.n == 797


def test_every_metric_of_digits_is_asked(digits: SelfTest) -> None:
    """Fails with: a metric added without an expectation."""
    asked = {e.metric for e in digits.expectations}
    assert ("vendi", ("one-dropped", "real")) in {
        (e.metric, e.subjects) for e in digits.expectations
    }
    known = {name for name, info in METRICS.items() if info.measure and info.group != "modes"}
    assert known - asked == {"fd_all", "inception_score_all", "bias_amplification"}


@pytest.mark.slow
@pytest.mark.parametrize("data", ["ring", "grid", "moons", "checkerboard", "stacked-digits"])
def test_other_data_pass(data: str) -> None:
    """Fails with: modes of the wrong data, a mode count turned round."""
    found = self_test(data)
    assert not found.failed, [str(e) for e in found.failed]
    if data in ("ring", "grid"):
        assert {"modes_covered", "mode_kl", "high_quality_share"} <= {
            e.metric for e in found.expectations
        }


def test_a_broken_metric_is_named(
    monkeypatch: pytest.MonkeyPatch, genzoo_says: Genzoo, tmp_path: Path
) -> None:
    """Recall of the wrong side: the failure names it, and the command ends with 3.

    Fails with: a failure that is only printed, exit code 0.
    """
    from genzoo.evaluation import neighbours

    right = neighbours.manifolds

    def wrong(view: View) -> dict[str, Measured]:
        found = right(view)
        return {**found, "recall": found["recall"]._replace(value=1 - found["recall"].value)}

    monkeypatch.setattr(neighbours, "manifolds", wrong)
    wanted = [order for order in selftest._RISING if order[0] in ("recall", "density")]
    monkeypatch.setattr(selftest, "_RISING", wanted)
    monkeypatch.setattr(selftest, "_PLANTED_TRAIN", {})
    monkeypatch.setattr(selftest, "_PLANTED_TEST", {})
    monkeypatch.setenv("GENZOO_CACHE", str(tmp_path))
    said = genzoo_says("evaluate", "--self-test", "--data", "ring", "--n", "200")
    assert said.code == 3
    assert "FAILED  recall" in said.out and "met     density" in said.out
    assert "do not trust recall on these data" in said.err


def test_orders() -> None:
    """Strictly rising, or chance; absent subjects are left out. Fails with: <= for <."""
    a, b = {"fd": Scored(1.0), "kid": Scored(0.0)}, {"fd": Scored(1.0), "kid": Scored(1.0)}
    scored = {"a": a, "b": b, "c": {"fd": Scored(2.0)}}
    orders = [("fd", ("a", "b", "c")), ("kid", ("a", "b", "c")), ("kid", ("a", "c"))]
    found = list(selftest._check([*orders, ("fd", ("c", "a"))], scored))
    assert found == [
        Expectation("fd", ("a", "b", "c"), (1.0, 1.0, 2.0), "unclear"),
        Expectation("kid", ("a", "b"), (0.0, 1.0), "met"),
        Expectation("fd", ("c", "a"), (2.0, 1.0), "failed"),
    ]
    near = [Scored(1.0), Scored(0.8, 0.1), Scored(2.0)]
    assert selftest._outcome(near) == "unclear"
    assert selftest._outcome([Scored(1.0), Scored(0.8, 0.01), Scored(2.0)]) == "failed"
    assert selftest._outcome([Scored(1.0, 1.0), Scored(0.8, 1.0)]) == "failed"


def test_a_metric_that_meets_nothing_fails() -> None:
    """Unclear alone is no pass. Fails with: failures counted by outcome only."""
    unclear = Expectation("fd", ("a", "b", "c"), (1.0, 1.0, 2.0), "unclear")
    met = Expectation("fd", ("a", "b"), (1.0, 2.0), "met")
    assert SelfTest("made", 50, (unclear,)).failed == (unclear,)
    assert SelfTest("made", 50, (unclear, met)).failed == ()


def test_too_few_items() -> None:
    """Fails with: a pass because nothing was asked."""
    import numpy as np

    with pytest.raises(InputError, match="too few for a self-test"):
        self_test(np.zeros((60, 2)))
