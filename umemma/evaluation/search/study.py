"""A study: the trials of a search in an SQLite file, and what the next one tries.

A trial is written when it is over, so a study holds whole trials whenever a process dies. What the
next one tries depends on the seed, its number and the trials before it alone: a search that was
stopped continues as if it had not been. Reference: Bergstra et al., Algorithms for Hyper-Parameter
Optimization, NeurIPS 2011 (TPE), as in Optuna.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from umemma.errors import UserError
from umemma.evaluation.search.space import Choice, Space
from umemma.system.seeds import derive

if TYPE_CHECKING:
    import optuna

FILE = "study.db"
REASON = "reason"  # of a failed trial
SHOWN = 300  # characters of what is wrong with a file


@dataclass(frozen=True)
class Trial:
    """A trial that is over.

    settings: {setting: value}; score: that of the ensemble on validation, NaN where it failed;
    reason: why it failed, "" where it did not.
    """

    number: int
    settings: Mapping[str, Any]
    score: float
    reason: str = ""

    @property
    def failed(self) -> bool:
        return math.isnan(self.score)


class Study:
    """The trials of one search space. Open it with `open_study`."""

    def __init__(self, study: optuna.Study, space: Space, seed: int) -> None:
        self.study = study
        self.space = space
        self.seed = seed
        self.distributions = {key: _distribution(values) for key, values in space.items()}

    def check(self) -> None:
        """Read all that is there. What a damaged file raises is Optuna's or Python's affair."""
        import optuna

        if self.study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
            raise ValueError("its direction is another")
        if not all(isinstance(trial.number, int) for trial in self.study.trials):
            raise ValueError("its trials are not numbered")
        self.list_trials()
        self.draw()

    def list_trials(self) -> list[Trial]:
        """Return the trials that are over, in their order."""
        trials = []
        for number, trial in enumerate(self.study.trials):
            score = math.nan if trial.value is None else trial.value
            settings = {key: self._value(key, trial.params[key]) for key in self.space}
            trials.append(Trial(number, settings, score, str(trial.user_attrs.get(REASON, ""))))
        return trials

    def draw(self) -> dict[str, Any]:
        """Return the settings of the next trial, {setting: value}."""
        import optuna

        done = self.study.trials
        sampler = optuna.samplers.TPESampler(seed=derive(self.seed, "tune", len(done)) % 2**32)
        ahead = optuna.create_study(direction="maximize", sampler=sampler)
        ahead.add_trials(done)
        drawn = ahead.ask(self.distributions).params
        return {key: self._value(key, drawn[key]) for key in self.space}

    def add(self, settings: Mapping[str, Any], score: float, reason: str = "") -> None:
        """Write a trial that is over. score: NaN where it failed."""
        import optuna

        failed = math.isnan(score)
        states = optuna.trial.TrialState
        params = {}
        for key, value in settings.items():
            is_choice = isinstance(self.space[key], Choice)
            params[key] = json.dumps(value) if is_choice else value
        self.study.add_trial(
            optuna.create_trial(
                state=states.FAIL if failed else states.COMPLETE,
                params=params,
                distributions=self.distributions,
                value=None if failed else score,
                user_attrs={REASON: reason} if reason else {},
            )
        )

    def _value(self, key: str, stored: Any) -> Any:
        values = self.space[key]
        if isinstance(values, Choice):
            return json.loads(stored)
        return values.round(stored)


def find_best(trials: list[Trial]) -> Trial | None:
    """Return the trial with the best score (ties: the first), None where all failed."""
    scored = [trial for trial in trials if not trial.failed]
    return max(scored, key=lambda trial: trial.score, default=None)


@contextlib.contextmanager
def open_study(folder: Path, space: Space, seed: int) -> Iterator[Study]:
    """Open the study in a folder, or begin it.

    UserError without Optuna, and for a file that is none of its studies.
    """
    try:
        import optuna
        import sqlalchemy
    except ImportError:
        hint = "Run: pip install 'umemma[tune]'"
        raise UserError("Optuna isn't installed", "umemma tune", hint) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    hint = "Delete it to begin the search again."
    with contextlib.ExitStack() as stack:
        damage = (
            sqlalchemy.exc.SQLAlchemyError,
            optuna.exceptions.OptunaError,
            *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
        )
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            stack.callback(_close, storage)
            study = optuna.create_study(
                storage=storage, study_name="tune", direction="maximize", load_if_exists=True
            )
            opened = Study(study, space, seed)
            opened.check()
        except damage as error:
            reason = f"{error} ".splitlines()[0][:SHOWN].strip() or type(error).__name__
            raise UserError(f"not a study of Optuna: {reason}", str(path), hint) from None
        yield opened


def _close(storage: optuna.storages.RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _distribution(values: Any) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if isinstance(values, Choice):
        return distributions.CategoricalDistribution(values.values)
    if values.is_integer:
        return distributions.IntDistribution(int(values.low), int(values.high), log=values.log)
    return distributions.FloatDistribution(values.low, values.high, log=values.log)
