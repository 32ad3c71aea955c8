import subprocess
import sys

import pytest
from click.testing import CliRunner

from apq_tune import cli as cli_module


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "digit"], "unknown search space 'digit'; known: apq_mobilenet, digits"),
        (["run", "no/such.yaml"], "no/such.yaml: cannot be read"),
        (["run", "digits", "--constraint", "bit_ops<=1000"], "bit_ops goes from 3.00339e+06 to 5.86301e+07"),
        (["run", "digits", "--constraint", "speed<=1"], "unknown metric 'speed'"),
        (["run", "digits", "--constraint", "bit_ops<1e6"], "write METRIC<=NUMBER"),
        (["run", "digits", "--num-cpus", "0"], "--num-cpus"),
        (["run", "digits", "--seed", "x"], "--seed"),
        (["run", "digits", "--seed", "-1"], "--seed"),
        (["run", "digits", "--set", "final.epoch=3"], "unknown setting 'final.epoch'; known: "),
        (["run", "digits", "--set", "n_pairs=three"], "setting n_pairs: "),
        (["run", "digits", "--set", "n_pairs"], "write NAME=VALUE"),
        (["run", "digits", "--set", "predictor=oracle"], "predictor"),
        (["run", "digits", "--out", "/proc/nowhere"], "cannot write /proc/nowhere"),
        (["run", "digits", "--address", "127.0.0.1:1"], "cannot reach a Ray cluster at '127.0.0.1:1'"),
        (["swim"], "No such command"),
    ],
)
def test_bad_input_is_told_on_stderr_with_a_nonzero_status(arguments, said, tmp_path, monkeypatch, capsys):
    arguments = (
        arguments if "--out" in arguments or arguments[0] != "run" else [*arguments, "--out", str(tmp_path / "run")]
    )
    monkeypatch.setattr(sys, "argv", ["apq-tune", *arguments])
    with pytest.raises(SystemExit) as ended:  # anything else would be a traceback
        cli_module.main()
    out, err = capsys.readouterr()
    assert ended.value.code in (1, 2)
    assert said in err
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_malformed_yaml_names_the_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("name: [")
    monkeypatch.setattr(sys, "argv", ["apq-tune", "run", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli_module.main()
    err = capsys.readouterr().err
    assert ended.value.code == 1
    assert err.count("\n") == 1
    assert "mine.yaml: is not valid YAML" in err


def test_help_loads_neither_torch_nor_ray():
    code = (
        "import sys; from apq_tune.cli import cli; cli(['--help'], standalone_mode=False); import apq_tune;"
        "print(sorted({'torch', 'ray', 'optuna', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_spaces_lists_what_ships():
    result = CliRunner().invoke(cli_module.cli, ["spaces"])
    assert result.exit_code == 0
    assert "digits: 10^5.4 networks, 10^14.9 with bits, 5 blocks" in result.output
