"""The multi-power law on curves that its authors published, of their model of 100 million parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from knowcap.cli import main
from knowcap.laws import fit_law
from knowcap.laws.multi_power import PUBLISHED, multi_power_loss


WARM_UP, PEAK, END = 2160, 3e-4, 24_000  # steps, rate, steps
Columns = dict[str, np.ndarray]

# Every fourth row. Losses in nats per token every 512 steps: of a cosine from step 2160 on, of a constant rate from
# step 2176 on.
COSINE = np.array([
    3.7755, 3.6161, 3.5209, 3.4528, 3.4005, 3.3591, 3.3248, 3.2942, 3.2702, 3.2477, 3.2283, 3.2118, 3.1958, 3.1801,
    3.1661, 3.1543, 3.1426, 3.1305, 3.1208, 3.1106, 3.1003, 3.0915, 3.0825, 3.0741, 3.0657, 3.0588, 3.0511, 3.0435,
    3.0368, 3.0303, 3.0241, 3.0183, 3.0128, 3.0078, 3.0032, 2.999, 2.995, 2.9917, 2.9884, 2.9856, 2.9834, 2.9816,
    2.9798,
])  # fmt: skip
CONSTANT = np.array([
    3.7666, 3.6155, 3.5171, 3.4505, 3.3982, 3.3588, 3.3243, 3.2964, 3.2729, 3.253, 3.2359, 3.2206, 3.2057, 3.1942,
    3.1803, 3.1728, 3.1607, 3.1515, 3.1427, 3.1355, 3.1288, 3.1214, 3.1148, 3.109, 3.1033, 3.099, 3.0947, 3.0878,
    3.0825, 3.0797, 3.0759, 3.0711, 3.0671, 3.0647, 3.061, 3.0577, 3.0535, 3.0516, 3.0479, 3.0443, 3.0412, 3.041,
    3.0372,
])  # fmt: skip
# The rate falls from 3e-4 to 9e-5 at step 8000, whose loss is the first; before that it is the curve above.
DROPPED_STEP = np.array([
    8000, 8128, 8384, 8640, 8896, 9152, 9408, 9664, 9920, 10432, 10944, 11456, 11968, 12480, 12992, 13504, 14016,
    14528, 15040, 15552, 15936,
])  # fmt: skip
DROPPED = np.array([
    3.215, 3.1579, 3.1411, 3.1314, 3.1253, 3.1199, 3.1157, 3.1119, 3.1081, 3.102, 3.0966, 3.0911, 3.0866, 3.0821,
    3.0784, 3.0743, 3.0706, 3.0676, 3.0641, 3.0607, 3.0588,
])  # fmt: skip
# To be predicted: decays from step 20,000 on to a tenth, exponential and linear.
DECAY_STEP = np.array([20064, 20576, 21088, 21600, 22112, 22624, 23136, 23648, 23904])
DECAY = {
    "exponential": np.array([3.0554, 3.0291, 3.0082, 2.9913, 2.9779, 2.9678, 2.9599, 2.9539, 2.9514]),
    "linear": np.array([3.057, 3.0429, 3.0281, 3.0136, 2.9997, 2.9853, 2.972, 2.9592, 2.9535]),
}


def curves() -> Columns:
    """Those that the authors fit: a cosine, a constant rate, and a sudden fall."""
    first, second = WARM_UP + 512 * np.arange(43), 2176 + 512 * np.arange(43)
    cosine = 0.1 * PEAK + 0.45 * PEAK * (1 + np.cos(np.pi * (first - WARM_UP) / (END - WARM_UP)))
    same = second < 8000
    step = np.concatenate([first, second, second[same], [7936], DROPPED_STEP])
    fallen = np.concatenate([np.full(same.sum() + 1, PEAK), np.full(len(DROPPED), 0.3 * PEAK)])
    return {
        "run": np.repeat([0, 1, 2], [43, 43, len(fallen)]),
        "step": step.astype(float),
        "learning_rate": np.concatenate([cosine, np.full(43, PEAK), fallen]),
        "loss": np.concatenate([COSINE, CONSTANT, CONSTANT[same], [3.2169], DROPPED]),
        "warmup_steps": np.full(len(step), float(WARM_UP)),
    }


def decay(kind: str) -> Columns:
    """Rows of a decay, the last nine of `DECAY_STEP`."""
    step = np.concatenate([2176 + 512 * np.arange(35), [20_000], DECAY_STEP]).astype(float)
    share = np.maximum(step - 20_000, 0) / 4000
    rate = PEAK * 0.1**share if kind == "exponential" else PEAK * (1 - 0.9 * share)
    return {"step": step, "learning_rate": rate, "warmup_steps": np.full(len(step), float(WARM_UP))}


def test_the_published_constants_meet_the_published_curves_with_their_warm_up() -> None:
    """On average within 0.007 nats; without the rise of the warm-up they miss them by 0.13, B times the peak."""
    table, c = curves(), PUBLISHED["100M"]
    found = multi_power_loss(c, table["step"], table["learning_rate"], table["run"], table["warmup_steps"])
    without = multi_power_loss(c, table["step"], table["learning_rate"], table["run"])
    for run in range(3):
        rows = table["run"] == run
        assert np.abs(found - table["loss"])[rows].mean() < 0.007
        assert np.abs(without - table["loss"])[rows].mean() > 0.1
    late = (table["run"] == 1) & (table["step"] > 20_000)
    assert (found - without)[late] == pytest.approx(c["B"] * PEAK, rel=0.05)


def test_rows_of_the_warm_up_are_as_good_as_its_number_of_steps() -> None:
    table, c = decay("linear"), PUBLISHED["100M"]
    warm = np.arange(1, WARM_UP, 10.0)
    step = np.concatenate([warm, table["step"]])
    rate = np.concatenate([PEAK * warm / WARM_UP, table["learning_rate"]])
    found = multi_power_loss(c, step, rate)[len(warm) :]
    expected = multi_power_loss(c, table["step"], table["learning_rate"], warmup_steps=WARM_UP)
    assert found == pytest.approx(expected, abs=2e-3)


def test_three_published_curves_give_the_published_constants_and_predict_two_others() -> None:
    """C, beta and gamma are hardly determined. The authors' constants miss the two decays by up to 0.018 nats."""
    fit = fit_law("multi-power", curves(), num_bootstraps=10)
    c = PUBLISHED["100M"]
    for name, within in (("L_0", 0.01), ("A", 0.02), ("alpha", 0.02), ("B", 0.2)):
        assert fit.constants[name] == pytest.approx(c[name], rel=within)
    assert fit.residuals.std() < 1e-3
    for kind, loss in DECAY.items():
        table = decay(kind)
        found = fit.predict(table)[-9:]
        theirs = multi_power_loss(c, *(table[n] for n in ("step", "learning_rate")), warmup_steps=WARM_UP)[-9:]
        assert np.abs(found - loss).max() < 0.02
        assert np.abs(theirs - loss).max() < 0.02
        assert found == pytest.approx(theirs, abs=5e-3)


def write(path: Path, table: Columns) -> str:
    lines = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_the_command_predicts_a_schedule_and_asks_for_the_warm_up_that_the_fit_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, new = write(tmp_path / "runs.csv", curves()), write(tmp_path / "new.csv", decay("linear"))
    assert main(["fit", "multi-power", runs, "--predict", new, "--num_bootstraps", "10"]) == 0
    (last,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("23904 "))
    assert float(last.split()[3]) == pytest.approx(DECAY["linear"][-1], abs=0.02)
    del (without := decay("linear"))["warmup_steps"]
    short = write(tmp_path / "short.csv", without)
    assert main(["fit", "multi-power", runs, "--predict", short, "--num_bootstraps", "10"]) != 0
    assert "warmup_steps" in capsys.readouterr().err
