import json
import os
import subprocess
import sys
from pathlib import Path

import dream_r
import pytest
from dream_r.cli import main
from test_images import bad_pictures

ROOT = Path(dream_r.__file__).parent.parent


def dream_r_command(*arguments):
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "dream_r", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


def assert_one_line_and_2(done, says=""):
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("dream-r")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "command"),
        (["frobnicate"], "frobnicate"),
        (["generate", "--frobnicate", "hi"], "--frobnicate"),
        (["generate", "--alpha", "1.5", "hi"], "alpha must be at least 0 and at most 1"),
        (["generate", "--alpha", "much", "hi"], "must be a number, not 'much'"),
        (["generate", "--window", "0", "hi"], "window must be at least 1"),
        (["generate", "--method", "magic", "hi"], "method must be one of"),
        (["generate", "--target", "nowhere", "--method", "ar", "hi"], "no such folder"),
        (["generate", "--target", ".", "hi"], "needs a draft"),
        (["generate", ""], "the question is empty"),
        (["generate"], "give a question"),
        (["generate", "--messages", "absent.json"], "absent.json: cannot be read"),
        (["demo", "--problems", "0"], "--problems must be at least 1"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(arguments, says):
    assert_one_line_and_2(dream_r_command(*arguments), says)


def test_bad_pictures_are_one_line_and_exit_code_2(tmp_path):
    for path, says in bad_pictures(tmp_path):
        assert_one_line_and_2(dream_r_command("generate", "--image", path, "How many?"), says)


def test_output_that_nobody_reads_or_that_is_ascii_is_no_error():
    command = f"{sys.executable} -m dream_r generate --help"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        f"{command} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("usage")


def test_help_teaches():
    done = dream_r_command("generate", "--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout
    assert "(default: 0.7)" in done.stdout
    assert "--dtype auto|bf16|f16|i16|f32" in done.stdout


def test_import_is_fast_and_light():
    code = (
        "import sys, time; t = time.perf_counter(); import dream_r; "
        "print(time.perf_counter() - t, 'numpy' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    seconds, numpy, transformers = done.stdout.split()
    assert float(seconds) < 0.5
    assert (numpy, transformers) == ("False", "False")


def generate(folder, *arguments):
    return main(["generate", "--target", str(folder), "--draft", str(folder), *map(str, arguments)])


def test_generate_shows_steps_and_answer(fake, checkpoint_folder, board, capsys):
    assert generate(checkpoint_folder, "--image", board, "How many?") == 0
    out = capsys.readouterr().out
    assert "[draft rho 0.97] One." in out
    assert "[target] Two." in out
    assert "The answer is \\boxed{5}." in out
    assert "acceptance 0.67" in out


def test_generate_json_is_json_alone(fake, checkpoint_folder, capsys):
    assert generate(checkpoint_folder, "--json", "--seed", 3, "How many?") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answer"], found["seed"], found["finish_reason"]) == ("5", 3, "stop")
    assert found["steps"][1]["rho"] is None
    assert found["metrics"]["acceptance"] == pytest.approx(2 / 3)


def test_generate_takes_messages_and_samples(fake, checkpoint_folder, tmp_path, capsys):
    chat = tmp_path / "chat.json"
    chat.write_text(json.dumps([{"role": "user", "content": "How many?"}]))
    assert generate(checkpoint_folder, "--messages", chat, "--n", 2) == 0
    assert capsys.readouterr().out.splitlines() == ["sample 0: 5", "sample 1: 5"]


def test_generate_writes_a_timeline(fake, checkpoint_folder, tmp_path, capsys):
    assert generate(checkpoint_folder, "--timeline", tmp_path / "lanes", "How many?") == 0
    assert (tmp_path / "lanes.svg").read_text().startswith("<svg")
    assert json.loads((tmp_path / "lanes.json").read_text())["traceEvents"]


def test_ctrl_c_shows_what_was_committed_and_exits_130(
    fake, checkpoint_folder, capsys, monkeypatch
):
    import signal

    from dream_r.cli.show import Show

    plain = Show.step

    def step(self, step):
        plain(self, step)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Show, "step", step)
    assert generate(checkpoint_folder, "How many?") == 130
    out = capsys.readouterr().out
    assert "One." in out
    assert "cancelled" in out
    assert "boxed" not in out


def test_doctor(fake, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("processor", "kernels", "portable", "numpy", "pocket-draft"):
        assert word in out
    assert "none: this build has no CUDA" in out
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"]["cores"] >= 1


def test_demo_runs_on_any_pair(fake, checkpoint_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(
            [
                "demo",
                "--target",
                str(checkpoint_folder),
                "--draft",
                str(checkpoint_folder),
                "--problems",
                "4",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert {p.name for p in out.iterdir()} == {
        "problem1.png",
        "problem2.png",
        "problem3.png",
        "timeline.svg",
        "timeline.json",
    }
    text = capsys.readouterr().out
    for word in (
        "Problem 3",
        "rho 0.97",
        "target alone",
        "acceptance",
        "ceiling",
        "attained",
        "The same 4 problems",
    ):
        assert word in text
