"""Search for settings with Optuna: every job of a multirun takes a trial of one study."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import optuna


def flat_space(space: Mapping[str, Any], where: str = "") -> dict[str, dict[str, Any]]:
    """Flattens a search space into the domains of dotted configuration keys.

    >>> flat_space({"model": {"dim": {"choices": [64, 128]}, "lr": {"low": 0.5, "high": 1.0}}})
    {'model.dim': {'choices': [64, 128]}, 'model.lr': {'low': 0.5, 'high': 1.0}}

    Raises:
        ValueError: A key has no domain.
    """
    flat: dict[str, dict[str, Any]] = {}
    for name, node in space.items():
        key = f"{where}{name}"
        if not isinstance(node, dict):
            raise ValueError(f"search.space.{key}: give low and high (and log), or choices")
        if set(node) == {"choices"} or {"low", "high"} <= set(node) <= {"low", "high", "log"}:
            flat[key] = node
        else:
            flat |= flat_space(node, f"{key}.")
    return flat


class Search:
    """A study to which jobs contribute trials: in sequence, in parallel, or in a later sweep.

    Args:
        study: Name of the study. A study that is already in the storage is continued.
        storage: Database URL; `sqlite:///FILE` needs no server.
        trials: Number of finished trials that ends the search. Parallel jobs may add a few.
        seed: Random seed of the sampler.
        space: Tree of the configuration with a domain for every key to set: `{low, high, log}`, of
            whole numbers if both bounds are whole, or `{choices}`.

    Raises:
        ValueError: A key of the space has no domain.
    """

    def __init__(
        self, study: str, storage: str, trials: int, seed: int, space: Mapping[str, Any]
    ) -> None:
        self.study = study
        self.storage = storage
        self.trials = trials
        self.seed = seed
        self.space = flat_space(space)

    def open(self) -> "optuna.Study":
        """Opens the study, or makes it.

        Raises:
            ImportError: Optuna is not installed.
        """
        try:
            import optuna
        except ImportError as error:
            raise ImportError("a search needs Optuna: pip install '.[sweeps]' here") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if self.storage.startswith("sqlite:///"):
            file = Path(self.storage.removeprefix("sqlite:///"))
            file.parent.mkdir(parents=True, exist_ok=True)
        return optuna.create_study(
            study_name=self.study,
            storage=self.storage,
            direction="maximize",
            load_if_exists=True,
        )

    def run_trial(
        self, cfg: DictConfig, objective: Callable[[DictConfig], Mapping[str, float]]
    ) -> float | None:
        """Runs one trial: applies the settings that the study proposes and reports the result.

        Args:
            cfg: Unresolved configuration; changed in place.
            objective: Runs a configuration and returns its metrics.

        Returns:
            The value of `cfg.optimized_metric`; None if the study needs no more trials.

        Raises:
            ValueError: A key of the space is not in the configuration, or the metric was not
                measured.
        """
        nowhere = object()
        for key in self.space:
            if OmegaConf.select(cfg, key, default=nowhere) is nowhere:
                raise ValueError(f"search.space: there is no key {key} in the configuration")
        study = self.open()
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        finished = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if finished >= self.trials:
            print(f"study {self.study} has {finished} of {self.trials} trials: nothing to do")
            return None

        trial = study.ask()
        # Every job has its own sampler; with the same seed all would draw the same values.
        study.sampler = TPESampler(seed=self.seed + trial.number)
        for key, domain in self.space.items():
            OmegaConf.update(cfg, key, _suggest(trial, key, **domain))
        trial.set_user_attr("run_dir", str(cfg.run_dir))
        settings = ", ".join(f"{k}={v}" for k, v in trial.params.items())
        print(f"study {self.study}, trial {trial.number}: {settings}")
        try:
            metrics = objective(cfg)
            if cfg.optimized_metric not in metrics:
                names = ", ".join(sorted(metrics))
                raise ValueError(f"optimized_metric={cfg.optimized_metric} is none of {names}")
        except BaseException:
            study.tell(trial, state=TrialState.FAIL)
            raise
        value = metrics[cfg.optimized_metric]
        study.tell(trial, value)
        return value


def _suggest(
    trial: "optuna.Trial",
    key: str,
    low: float = 0,
    high: float = 0,
    log: bool = False,
    choices: list[Any] | None = None,
) -> Any:
    if choices is not None:
        return trial.suggest_categorical(key, choices)
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log)
    return trial.suggest_float(key, low, high, log=log)
