"""The training loop: perception first, then solving and judging, with checkpoints.

A run lives in one folder: `last.pt` (everything needed to go on), `log.jsonl` and, where a file
called PAUSE stands beside the run, a process that sleeps until it is gone.
"""

import json
import os
import signal
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from dream_r.pocket.problems import LEVELS
from dream_r.pocket.words import NEGATIVE
from tqdm import tqdm

from train.pocket.data import IMAGE_AT, Batch, Mix, collate, deduced, encode, same_size
from train.pocket.evaluate import load
from train.pocket.heads import Heads, accuracy, cell_losses, cross_entropy, text_losses
from train.pocket.model import PocketModel
from train.pocket.optim import optimisers
from train.pocket.shapes import SHAPES


@dataclass(frozen=True)
class Plan:
    """A recipe: `perceive` steps of perception, then up to `steps` in all; levels by step."""

    role: str
    perceive: int
    steps: int
    decay_from: int
    levels: tuple[tuple[int, dict[int, float]], ...]  # (until step, level weights)
    lr: float = 3e-3
    warmup: int = 40
    batch_tokens: int = 10_000
    pictures: int = 64
    mix: Mix = field(default_factory=Mix)
    judge_from: int = 0  # the judge is asked from this step on
    snapshots: int = 0  # keep the weights every so many steps
    words: float = 1.0  # weights of the losses: next word, what cells show, the other heads
    cells: float = 0.3
    hints: float = 0.3
    made: Path | None = None  # JSON lines of steps that a draft wrote
    made_share: float = 0.7  # share of batches with them
    settle: int = 0  # up to this step the heads learn from the model, not the model from them
    haste: float = 1.0  # learning rate of the heads against the rest
    deduced: float = 0.0  # weight of the words that follow from earlier ones, once more
    judging: float = 0.5  # weight of the judge's loss
    negative: float = 1.0  # weight of a wrong step in the judge's loss; of a right one: 1
    families: tuple[str, ...] = ()  # drawn from evenly, where a level has them
    seed: int = 1

    def rate(self, step: int) -> float:
        """Learning rate: a warm-up per stage, flat, then a line down to a thirtieth."""
        since = step if step < self.perceive else step - self.perceive
        warm = min(1.0, (since + 1) / self.warmup)
        done = (step - self.decay_from) / max(1, self.steps - self.decay_from)
        return self.lr * warm * (1 - 0.97 * min(1.0, max(0.0, done)))

    def weights(self, step: int) -> dict[int, float]:
        return next((w for until, w in self.levels if step < until), self.levels[-1][1])


SIZE = {1: 150, 2: 270, 3: 300, 4: 375}  # columns of a typical problem of each level


class Run:
    """Model, heads, optimisers and counters of one training run."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(plan.seed)
        shape = SHAPES[plan.role]
        self.model, self.heads = PocketModel(shape), Heads(shape)
        self.optimisers = optimisers(self.model, self.heads, plan.lr)
        self.step = self.problems = self.tokens = 0
        self.seconds = 0.0
        self.pool, self.ahead = ThreadPoolExecutor(1), None
        self.made: dict[int, list[dict]] = defaultdict(list)
        for line in plan.made.read_text().splitlines() if plan.made else ():
            entry = json.loads(line)
            self.made[entry["level"]].append(entry)

    def begin(self, path: Path) -> None:
        """Take the weights of a checkpoint or model folder; the heads too where there are any."""
        self.model.load_state_dict(load(self.plan.role, path).state_dict())
        if path.suffix == ".pt":
            self.heads.load_state_dict(torch.load(path, weights_only=False)["heads"])

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        for name in ("step", "problems", "tokens", "seconds"):
            setattr(self, name, state[name])

    def save(self, name: str = "last.pt") -> None:
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "role": self.plan.role,
            **{k: getattr(self, k) for k in ("step", "problems", "tokens", "seconds")},
        }
        torch.save(state, self.folder / f"{name}.part")
        os.replace(self.folder / f"{name}.part", self.folder / name)

    def batch(self, step: int, problems: int) -> tuple[Batch, int]:
        """The batch of a step after so many problems, and the number of problems it uses.

        A function of the seed and its arguments alone, so the next one is made ahead.
        """
        rng = np.random.default_rng([self.plan.seed, step])
        weights = self.plan.weights(step)
        level = int(
            rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values()))
        )
        seeing = step < self.plan.perceive
        count = self.plan.pictures if seeing else self.plan.batch_tokens // SIZE[level]
        seeds, wrote = range(first := self.plan.seed * 10**8 + problems, first + count), {}
        if level in self.made and rng.random() < self.plan.made_share:
            at = rng.choice(len(self.made[level]), count)
            wrote = {x["seed"]: x["made"] for x in (self.made[level][i] for i in at)}
            seeds = list(wrote)
        there = {name for layout in LEVELS[level] for name in layout[3]}
        families = [f for f in self.plan.families if f in there and not wrote]
        some = same_size(seeds, level, families=families, rng=rng)
        steps = [{int(k): v for k, v in wrote.get(p.seed, {}).items()} for p in some]
        mix = replace(
            self.plan.mix,
            picture_only=seeing,
            judge=self.plan.mix.judge and step >= self.plan.judge_from,
        )
        return collate(some, rng, mix, steps), count

    def next_batch(self) -> Batch:
        """This step's batch; a thread makes the next one meanwhile."""
        if self.ahead is None or self.ahead[0] != (self.step, self.problems):
            self.ahead = ((), self.pool.submit(self.batch, self.step, self.problems))
        batch, count = self.ahead[1].result()
        self.problems += count
        following = (self.step + 1, self.problems)
        self.ahead = (following, self.pool.submit(self.batch, *following))
        return batch

    def losses(self, b: Batch, report: dict) -> torch.Tensor:
        if self.step < self.plan.perceive:
            depth = max(self.heads.rungs["cell"])
            states = self.model(
                b.ids, b.positions, b.mask, self.model.see(b.patches, b.grid), IMAGE_AT, depth=depth
            )
            return cell_losses(self.heads, states, b, report)
        states = self.model(b.ids, b.positions, b.mask, self.model.see(b.patches, b.grid), IMAGE_AT)
        read = [s.detach() for s in states] if self.step < self.plan.settle else states
        loss = self.plan.cells * cell_losses(self.heads, read, b, report)
        loss = loss + self.plan.hints * text_losses(self.heads, read, b, report)
        said = b.target >= 0
        for i in (*self.heads.rungs["exit"], len(states) - 1):
            logits = self.model.logits(states[i][said])
            last = i == len(states) - 1
            weight = self.plan.words if last else self.plan.hints
            loss = loss + weight * cross_entropy(logits, b.target[said])
            report[f"words{i}"] = accuracy(logits, b.target[said])
            if last:
                report["words_loss"] = float(cross_entropy(logits.detach(), b.target[said]))
                hard = deduced(b.ids, b.target)[said]
                if self.plan.deduced:
                    some = cross_entropy(logits[hard], b.target[said][hard])
                    loss = loss + self.plan.deduced * some
                report["deduced"] = accuracy(logits[hard], b.target[said][hard])
        return loss + self.judge_loss(states, b, report)

    def judge_loss(self, states: list[torch.Tensor], b: Batch, report: dict) -> torch.Tensor:
        asked = b.judged >= 0
        total = torch.zeros(())
        if not asked.any():
            return total
        keyword = b.judged[asked]
        wrong = keyword == encode(NEGATIVE)[0]
        weight = 1 + (self.plan.negative - 1) * wrong
        for i in (len(states) - 2, len(states) - 1):
            logits = self.model.logits(states[i][asked])
            loss = F.cross_entropy(logits, keyword, reduction="none")
            total = total + self.plan.judging * (weight * loss).sum() / weight.sum()
            report[f"judge{i}"] = accuracy(logits, keyword)
        report["judge.wrong"] = accuracy(logits[wrong], keyword[wrong])
        return total

    def train_step(self, report: dict) -> None:
        rate = self.plan.rate(self.step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * (self.plan.haste if group.get("heads") else 1)
        batch = self.next_batch()
        loss = self.losses(batch, report)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.tokens
        report.update(loss=float(loss.detach()), norm=float(norm), lr=rate)

    def train(self, until: int | None = None, every: float = 300.0) -> None:
        """Go on to step `until`, saving every `every` seconds and at the end."""
        until = until or self.plan.steps
        sums: dict[str, list[float]] = defaultdict(list)
        saved = time.time()
        bar = tqdm(total=until, initial=self.step, desc=self.plan.role, mininterval=10)
        stopped: list[int] = []
        before = {
            kind: signal.signal(kind, lambda number, _: stopped.append(number))
            for kind in (signal.SIGTERM, signal.SIGINT)
        }
        while self.step < until and not stopped:
            while (self.folder.parent / "PAUSE").exists() and not stopped:
                time.sleep(1)
            report: dict[str, float] = {}
            begun = time.time()
            if self.step == self.plan.perceive and self.plan.perceive:
                self.save("perceive.pt")
            self.train_step(report)
            self.seconds += time.time() - begun
            for key, value in report.items():
                sums[key].append(value)
            bar.update()
            if self.step % 20 == 0 or self.step == until:
                line = {k: round(float(np.mean(v)), 5) for k, v in sums.items()}
                line |= {
                    "step": self.step,
                    "problems": self.problems,
                    "tokens": self.tokens,
                    "seconds": round(self.seconds),
                    "step_s": round(time.time() - begun, 2),
                }
                with (self.folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                sums.clear()
            if self.plan.snapshots and self.step % self.plan.snapshots == 0:
                torch.save({"model": self.model.state_dict()}, self.folder / f"step-{self.step}.pt")
            if time.time() - saved > every or self.step == until:
                self.save()
                saved = time.time()
        bar.close()
        for kind, handler in before.items():
            signal.signal(kind, handler)
        if stopped:
            self.save()
            raise SystemExit(f"stopped at step {self.step}; run again to go on")
