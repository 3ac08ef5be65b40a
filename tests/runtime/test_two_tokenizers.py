"""The pocket target with its draft behind another tokenizer: the text must be the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import dream_r
import pytest
from dream_r import pocket
from dream_r.checkpoint import resolve
from dream_r.tokens import Tokens

sys.path.insert(0, str(Path(__file__).parent))

import equality
from permuted import permuted


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return permuted(pocket.path("draft"), tmp_path_factory.mktemp("models") / "other")


def run(draft, wanted, **settings):
    with dream_r.Engine("pocket", draft, **settings) as engine:
        return engine.generate_many(wanted)


def test_the_copy_has_another_tokenizer(other):
    tokens = [Tokens(resolve(name)) for name in (other, "pocket-draft")]
    assert not tokens[0].same_as(tokens[1])
    assert not tokens[1].same_as(tokens[0])
    ids = [t.encode("There are 3 red shapes.\n\n</think>") for t in tokens]
    assert ids[0] != ids[1]
    assert tokens[0].decode(ids[0]) == tokens[1].decode(ids[1])


@pytest.mark.parametrize("race", ["first", "verdict"])
@pytest.mark.parametrize("inline", [False, True])
def test_nothing_accepted_is_the_target_alone(other, race, inline):
    wanted = equality.requests(range(12))
    alone = [r.text for r in run(None, wanted, method="ar")]
    got = run(other, wanted, alpha=1.0, race=race, inline=inline, mode="sequential")
    assert [r.text for r in got] == alone
    assert sum(r.metrics.translated for r in got) > 0


def test_the_other_tokenizer_changes_nothing_that_is_committed(other):
    wanted = [r for r in equality.requests(range(48)) if r.thinking_budget == max(equality.BUDGETS)]
    plain = run("pocket-draft", wanted, race="verdict")
    again = run(other, wanted, race="verdict")
    assert [[(s.author, s.tokens) for s in r.steps] for r in again] == [
        [(s.author, s.tokens) for s in r.steps] for r in plain
    ]
    assert [r.text for r in again] == [r.text for r in plain]
    assert sum(r.metrics.accepted for r in again) > 20
    assert sum(r.metrics.rejected for r in again) > 0
    assert all(r.metrics.translated == 0 for r in plain)
    assert all(r.metrics.translated >= r.metrics.accepted for r in again)


SCRIPT = """
import sys, threading, time
import dream_r, dream_r.build
from dream_r.translate import Translator

class Slow(Translator):
    def step(self, ids):
        until = time.monotonic() + 0.002
        while time.monotonic() < until:  # holds the interpreter's lock
            pass
        if how == "raises":
            raise KeyError("no such step")
        return super().step(ids)

dream_r.build.Translator = Slow
def ask_for_everything():
    for _ in range(200):
        engine._core.drop_prefixes(), engine.stats()

target, draft, how = sys.argv[1:]
ask = [dict(question="How many red shapes?", thinking_budget=200, seed=i) for i in range(6)]
engine = dream_r.Engine(target, draft, alpha=0.3, inline=how == "inline")
if how == "raises":
    try:
        engine.generate_many(ask)
    except RuntimeError as error:
        print(error)
    engine.close()
elif how == "exit":
    streams = [engine.submit(dream_r.Request(**a)) for a in ask]
    next(streams[0])
else:
    if how == "inline":
        calls = threading.Thread(target=ask_for_everything)
        calls.start()
        engine.generate_many(ask)
        calls.join()
    for round in range(3):
        streams = [engine.submit(dream_r.Request(**a)) for a in ask]
        time.sleep(0.003 * round)
        if round == 2:
            engine.close()
        for stream in streams:
            stream.abandon()
print("ended")
"""


@pytest.mark.parametrize("how", ["closes", "inline", "raises", "exit"])
def test_no_thread_waits_for_another_with_the_interpreter_in_hand(other, how):
    """In a process of its own: a deadlock would hold the lock that a timeout here needs."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(pocket.path("target")), str(other), how],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=Path(dream_r.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("ended\n")
    if how == "raises":
        assert "a step could not be translated: KeyError: 'no such step'" in done.stdout


def spelled(folder, text):
    """The token </think> becomes one that ends with it, or has something behind it."""
    content = json.loads((folder / "tokenizer.json").read_text())
    for added in content["added_tokens"]:
        added["content"] = added["content"].replace("</think>", text)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def held_out():
    return [r for r in equality.requests(range(48)) if r.thinking_budget == max(equality.BUDGETS)]


def test_a_draft_that_spells_the_end_of_thinking(other, tmp_path):
    """Its last steps are the same ones, so the same ones are committed."""
    draft = spelled(shutil.copytree(other, tmp_path / "draft"), "</think>\n")
    assert Tokens(resolve(draft)).think_end is None
    wanted = held_out()
    plain, again = (run(d, wanted, race="verdict") for d in (other, draft))
    written = [[[(s.author, s.tokens) for s in r.steps] for r in rs] for rs in (plain, again)]
    assert written[0] == written[1]
    ends = Tokens(resolve("pocket")).think_end
    assert any(steps[-1][0] == "draft" and steps[-1][1][-1] == ends for steps in written[0])


def test_a_target_that_spells_the_end_of_thinking(tmp_path):
    """It thinks and answers as it did; where its thinking was cut, what is put is other tokens."""
    target = spelled(shutil.copytree(pocket.path("target"), tmp_path / "t"), "</think>\n")
    wanted = held_out()[:12]
    with dream_r.Engine("pocket", method="ar") as a, dream_r.Engine(target, method="ar") as b:
        plain, again = a.generate_many(wanted), b.generate_many(wanted)
    for r, s in zip(plain, again, strict=True):
        assert r.steps[-1].author == "target"
        assert [x.tokens for x in s.steps] == [x.tokens for x in r.steps]
        assert (s.reasoning, s.answer) == (r.reasoning, r.answer)
