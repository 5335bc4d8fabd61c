"""Whether a training run can start as its spec says, in pure Python.

A worker makes these checks before it runs a trial. Planning calls the same functions on the parts
of the specs, so that what is planned also starts. What only the data or a weights file show is
checked when they are read. This module imports nothing heavy.
"""

from __future__ import annotations

from trainables.data.augmentation import check_augmentation
from trainables.data.formats import choose_format
from trainables.errors import DataError, RecipeError
from trainables.models import MODELS, check_adversary, check_model, depth_roles, model_config
from trainables.pruning import PRUNERS
from trainables.spec import ModelSpec, Recipe, Start, TaskSpec, TrainSpec
from trainables.tasks import TASKS, resolve_options
from trainables.training.recipe import check_recipe, check_workers


def check_training(spec: TrainSpec, workers: int = 1) -> None:
    """Raise TrainableError for a training run that cannot start as it is specified, in so many
    processes."""
    check_model(spec.model)
    resolve_options(spec.task)
    check_format(spec.task, spec.model)
    check_recipe_for(spec.recipe, spec.model, spec.task, workers)
    check_start(spec.start, spec.model)
    if spec.search is not None:
        check_search(spec.search.method, spec.recipe, workers)
    if not 0 <= spec.first_step < spec.recipe.steps:
        raise RecipeError(
            f"first_step = {spec.first_step} is not a step of the recipe; use 0 to"
            f" {spec.recipe.steps - 1}"
        )


def check_recipe_for(recipe: Recipe, model: ModelSpec, task: TaskSpec, workers: int) -> None:
    """Raise RecipeError, whose text begins with the field as in `recipe.steps`, for a recipe that
    cannot be trained as written: at all, with this model and task, or in so many processes."""
    check_recipe(recipe, MODELS[model.architecture].groups)
    varies = TASKS[task.name].varies_parameters
    check_workers(recipe, f"task {task.name}", workers, varies_parameters=varies)
    check_adversary(recipe, model.architecture)
    modality, applies = MODELS[model.architecture].modality, TASKS[task.name].augments
    check_augmentation(recipe.augmentation, modality, task=task.name, applies=applies)


def check_search(method: str, recipe: Recipe, workers: int) -> None:
    """Raise RecipeError if a run cannot do the search of a pruning method, at all or in so many
    processes at the recipe's ZeRO stage."""
    if method not in PRUNERS or PRUNERS[method].needs != "search":
        raise RecipeError(
            f"search: {method!r} is no pruning method with a search; name one that has one"
        )
    varies = PRUNERS[method].varies_parameters
    check_workers(recipe, f"the search {method}", workers, varies_parameters=varies)


def check_format(task: TaskSpec, model: ModelSpec) -> None:
    """Raise DataError if the model cannot read the task's data in the format of the spec."""
    if TASKS[task.name].published:
        choose_format(task.name, model.architecture, task.format)
    elif task.format:
        raise DataError(
            f"task {task.name} reads files of its own, not the format {task.format}; name none"
        )


def check_start(start: Start, model: ModelSpec) -> None:
    """Raise RecipeError if the start weights cannot be shuffled as the start says."""
    if start.shuffle == "across_depth":
        depth_roles(model_config(model).pools()[MODELS[model.architecture].pool])
