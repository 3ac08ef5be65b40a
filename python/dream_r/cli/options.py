"""The commands' options. Those of engine and request are made from their dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dream_r.config import CHOICES, EngineConfig, Request

Help = dict[str, tuple[type | None, str]]  # field -> its type (None: a switch), what it is

MODEL: Help = {
    "target": (
        str,
        "the large model: a folder, an org/name of the hub, or pocket (default: pocket)",
    ),
    "draft": (str, "the small model (default: pocket-draft when the target is pocket)"),
    "method": (str, "how to reason; ar is the target alone"),
    "dtype": (
        str,
        "of weights and KV cache; auto: bf16, or i16 on CPUs where that is faster; "
        "f16 on GPUs alone, i16 on CPUs alone",
    ),
}
SPECULATION: Help = {
    "alpha": (float, "accept a drafted step when rho is above this, 0 to 1"),
    "window": (int, "steps drafted ahead of the last verdict"),
    "race": (str, "first: fastest; verdict: reproducible, wait for every verdict"),
    "mode": (str, "may the target write its own step beside the draft? auto measures"),
    "verify": (str, "verdicts inside the target's forward, or on a lane of their own"),
    "min_mass": (float, "least probability of the two verdict words together"),
    "spellings": (None, "also count other spellings of the verdict words"),
    "specreason": (str, "how method specreason reads the grade"),
    "specreason_threshold": (int, "grade 0 to 9 from which specreason accepts"),
    "max_step_tokens": (int, "longest step"),
    "proposals": (int, "tokens the target may read ahead of its own choice (0 = none)"),
}
RESOURCES: Help = {
    "device": (str, "where the target runs: cpu, cuda or cuda:1"),
    "draft_device": (str, "where the draft runs (default: where the target does)"),
    "target_threads": (int, "threads of the target's lane (0 = choose)"),
    "draft_threads": (int, "threads of the draft's lane (0 = choose)"),
    "max_requests": (int, "requests in flight together"),
    "target_kv_tokens": (int, "room of the target's KV cache (0 = choose)"),
    "draft_kv_tokens": (int, "room of the draft's KV cache (0 = choose)"),
    "prefill_chunk": (int, "prompt tokens in one forward"),
}
PROMPTS: Help = {
    "reasoning_prompt": (str, "text file with {question} in it"),
    "scoring_prompt": (str, "JSON file: suffix, positive, negative"),
    "digit_prompt": (str, "JSON file: suffix, digits"),
}
SAMPLING: Help = {
    "thinking_budget": (int, "most tokens of reasoning"),
    "max_tokens": (int, "most tokens of the answer"),
    "temperature": (float, "0 is greedy (default: the target's own setting)"),
    "top_p": (float, "nucleus"),
    "top_k": (int, "0 = all"),
    "min_p": (float, "least probability, relative to the best token's"),
    "repetition_penalty": (float, "1 = none"),
    "presence_penalty": (float, "0 = none"),
    "seed": (int, "for the same output again, together with --race verdict"),
    "n": (int, "samples"),
    "ignore_eos": (None, "answer until --max-tokens"),
}

EXAMPLES = {
    "": """\
first steps:
  dream-r demo                                   see a draft and a target reason together
  dream-r generate --image board.png "How many red shapes are there?"
  dream-r inspect org/name                       what a checkpoint is, and whether it runs here
  dream-r doctor                                 what this machine and this build can do
Each command has its own --help with examples.""",
    "demo": """\
examples:
  dream-r demo
  dream-r demo --out pictures --problems 20
  dream-r demo --target runs/target --draft runs/draft   another pair, same problems""",
    "generate": """\
examples:
  dream-r generate --image board.png "How many red shapes are there?"
  dream-r generate --image a.png --image b.png "Which picture has more stars?"
  dream-r generate --method ar --image board.png "..."           the target alone
  dream-r generate --race verdict --seed 1 --temperature 0.7 --json "..."
  dream-r generate --messages chat.json                          a chat in HF or OpenAI form
  dream-r generate --timeline lanes --image board.png "..."      lanes.svg and lanes.json
Ctrl-C stops a request and shows what was committed (exit code 130).""",
    "inspect": """\
examples:
  dream-r inspect pocket
  dream-r inspect Qwen/Qwen3-VL-2B-Thinking      a model of the hub; weights are not downloaded
  dream-r inspect target/ --draft draft/         and whether the two can work together""",
    "quantize": """\
examples:
  dream-r quantize pocket pocket-w4
  dream-r quantize Qwen/Qwen3-VL-2B-Thinking 2b-w4 --calibration mine.jsonl
A line of the file: {"question": "...", "images": ["a.png"], "response": "..."}; pictures lie
beside it. Needs torch (pip install 'dream-r[quantize]') and memory for the model in 32 bits; for
large models use llm-compressor.""",
    "doctor": """\
examples:
  dream-r doctor
  dream-r doctor --json""",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2."""

    def __init__(
        self,
        *,
        prog: str | None = None,
        description: str | None = None,
        epilog: str | None = None,
        help: str | None = None,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        message = message.replace("unrecognized arguments", "unknown option or extra argument")
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def build_parser() -> Parser:
    parser = Parser(
        prog="dream-r",
        epilog=EXAMPLES[""],
        description="Multimodal speculative reasoning: a small draft proposes steps, a "
        "large target judges them.",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="command", parser_class=Parser
    )

    def command(name: str, line: str, run: Callable[[argparse.Namespace], int]) -> Parser:
        made = commands.add_parser(name, description=line, help=line, epilog=EXAMPLES[name])
        made.set_defaults(run=run)
        return made

    demo = command(
        "demo", "show the built-in pair reasoning, then measure it against the target alone", _demo
    )
    demo.add_argument(
        "--out",
        default="dream-r-demo",
        help="folder for pictures and timeline (default: %(default)s)",
    )
    demo.add_argument(
        "--problems", type=int, default=30, help="problems in the comparison (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, help="which problems")
    demo.add_argument("--target", default="pocket", help="another target's folder")
    demo.add_argument("--draft", default="pocket-draft", help="another draft's folder")

    generate = command(
        "generate", "answer one question, showing each step as it is committed", _generate
    )
    generate.add_argument("question", nargs="?", help="the question; or use --messages")
    generate.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture; repeat for several"
    )
    generate.add_argument("--messages", metavar="FILE", help="JSON list of chat messages")
    generate.add_argument("--json", action="store_true", help="print the result as JSON alone")
    generate.add_argument(
        "--timeline", metavar="NAME", help="write NAME.svg and NAME.json (Perfetto) of the lanes"
    )
    for title, fields in (
        ("models", MODEL),
        ("speculation", SPECULATION),
        ("resources", RESOURCES),
        ("prompts", PROMPTS),
    ):
        _add(generate, title, fields, EngineConfig)
    group = _add(generate, "sampling", SAMPLING, Request)
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="cut the text where this begins; repeat for several",
    )
    generate.add_argument("--no-prefix-cache", action="store_true", help=argparse.SUPPRESS)

    inspect = command(
        "inspect", "what a checkpoint is, whether it runs here, whether a pair fits", _inspect
    )
    inspect.add_argument("model", help="a folder, an org/name of the hub, or pocket")
    inspect.add_argument("--draft", metavar="MODEL", help="a second model, as its draft")
    inspect.add_argument("--json", action="store_true", help="print as JSON")

    quantize = command("quantize", "write a 4-bit copy of a checkpoint", _quantize)
    quantize.add_argument("model", help="a folder, an org/name of the hub, or pocket")
    quantize.add_argument("out", help="folder to write")
    quantize.add_argument(
        "--group",
        type=int,
        choices=(128, 64, 32),
        default=128,
        help="weights that share a scale; less where it does not divide (default: %(default)s)",
    )
    quantize.add_argument(
        "--samples", type=int, default=128, help="prompts to look at (default: %(default)s)"
    )
    quantize.add_argument("--calibration", metavar="FILE", help="prompts of your own, JSON lines")
    quantize.add_argument("--force", action="store_true", help="replace OUT if it exists")

    doctor = command("doctor", "what this machine and this build can do", _doctor)
    doctor.add_argument("--json", action="store_true", help="print as JSON")
    return parser


def _add(parser: Parser, title: str, fields: Help, config: type) -> argparse._ArgumentGroup:
    group = parser.add_argument_group(title)
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    for name, (kind, line) in fields.items():
        option = f"--{name.replace('_', '-')}"
        if kind is None:
            group.add_argument(option, action="store_true", help=line)
            continue
        default = defaults[name]
        if default is not None and "default:" not in line:
            line += f" (default: {default})"
        choices = CHOICES.get(name)
        metavar = "|".join(choices) if choices else {int: "N", float: "X", str: "FILE"}[kind]
        group.add_argument(option, type=_typed(kind), default=default, metavar=metavar, help=line)
    return group


def _typed(kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            what = {int: "a whole number", float: "a number"}[kind]
            raise argparse.ArgumentTypeError(f"must be {what}, not {text!r}") from None

    return parse


def engine_config(arguments: argparse.Namespace, trace: bool) -> EngineConfig:
    """The engine that the options of `generate` describe."""
    given = {
        name: getattr(arguments, name) for name in (*MODEL, *SPECULATION, *RESOURCES, *PROMPTS)
    }
    if given["draft"] is None and given["target"] == "pocket":
        given["draft"] = "pocket-draft"
    return EngineConfig(**given, prefix_cache=not arguments.no_prefix_cache, trace=trace)


class Version(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        import dream_r

        print(f"dream-r {dream_r.__version__}")
        raise SystemExit(0)


def _demo(arguments: argparse.Namespace) -> int:
    from dream_r.cli.demo import run

    return run(arguments)


def _generate(arguments: argparse.Namespace) -> int:
    from dream_r.cli.generate import run

    return run(arguments)


def _inspect(arguments: argparse.Namespace) -> int:
    from dream_r.cli.inspect import run

    return run(arguments)


def _quantize(arguments: argparse.Namespace) -> int:
    from dream_r.cli.quantize import run

    return run(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    from dream_r.cli.doctor import run

    return run(arguments)
