"""Fitting a checkpoint to a model: class head, number of queries and the presence of a mask head may differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..class_names import listed, match_classes
from .class_head import CLASS_HEAD, UNNAMED, is_of_proposals
from .layouts.segmentation import MASK_HEAD

StateDict = Mapping[str, Tensor]
ClassNames = tuple[Sequence[str] | None, Sequence[str] | None]
"""In the file, and in the data of the model."""
Row = tuple[int, int]
"""In the model, and in the file."""

CLASS_HEAD_MODES = ("rows", "names", "none")
_QUERIES = "transformer.query_embed.weight"
_LEVELS = "transformer.level_embed"

# Not parameters: counters of batch norms, and what older files of detectron2 models hold beside the weights.
_NOT_NEEDED = re.compile(r".*\.num_batches_tracked|pixel_(mean|std)|criterion\..*")


@dataclass
class LoadReport:
    """What became of every tensor of a file and of a model.

    Args:
        source: the file.
        layout: whose it is.
        loaded: taken over whole.
        reinitialised: name -> why the model's own start was kept, in whole or in part.
        missing: in the model, not in the file, and not needed.
        unexpected: in the file, without use in the model.
        notes: sentences.
    """

    source: str
    layout: str
    loaded: list[str] = field(default_factory=list)
    reinitialised: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.source} ({self.layout}): {len(self.loaded)} tensors loaded"]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.reinitialised.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"  re-initialised, {reason}: {listed(names, 4)}" for reason, names in reasons.items()]
        lines += [f"  missing: {listed(self.missing, 4)}"] if self.missing else []
        lines += [f"  unexpected: {listed(self.unexpected, 4)}"] if self.unexpected else []
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def check_class_head_mode(mode: str) -> None:
    """Raises ValueError if `MODEL.DETR.CLASS_HEAD_FROM` is none of `CLASS_HEAD_MODES`."""
    if mode not in CLASS_HEAD_MODES:
        modes = ", ".join(CLASS_HEAD_MODES)
        raise ValueError(f"MODEL.DETR.CLASS_HEAD_FROM is {mode!r}, expected one of {modes}.")


def is_detr(names: Iterable[str]) -> bool:
    """Whether a model or file is a detector of this package: it has a transformer and a head on queries."""
    names = list(names)
    return all(any(name.startswith(part) for name in names) for part in ("backbone.", "transformer.", "head."))


def fit(
    state: StateDict,
    model: StateDict,
    report: LoadReport,
    *,
    exact: bool,
    class_head: str = "rows",
    class_names: ClassNames = (None, None),
) -> dict[str, Tensor]:
    """Makes a state dict that a model can load whole.

    Args:
        state: of the file, under the model's names.
        model: state dict of the model.
        report: filled in.
        exact: nothing that the model needs may differ: class head, queries, mask head (to evaluate, or to resume).
        class_head: "rows": taken over if it has as many rows, in the order of the model's classes where both have the
            same, else re-initialised; "names": rows of classes with the same name; "none": re-initialised.
        class_names: in the file and in the data of the model, where they are known.

    Raises:
        ValueError: if anything else differs.
    """
    _check_levels(state, model, report.source)
    _check_names(state, model, report, exact=exact)
    namesakes = None if exact else _namesakes(report, class_head, *class_names)
    fitted = {}
    for name, own in model.items():
        theirs = state.get(name, own)
        taken: tuple[list[Row], str] | None = None
        if not exact and name == _QUERIES:
            taken = _first_queries(theirs, own, report)
        elif not exact and CLASS_HEAD.fullmatch(name) and is_of_proposals(name, model):
            taken = _proposal_rows(theirs, own, class_head)
        elif not exact and CLASS_HEAD.fullmatch(name):
            taken = _class_rows(theirs, own, class_head, namesakes, class_names)
        if taken is not None and theirs.shape[1:] == own.shape[1:]:
            fitted[name] = _with_rows(name, theirs, own, *taken, report)
        elif theirs.shape == own.shape:
            fitted[name] = theirs
            report.loaded += [name] if name in state else []
        else:
            raise ValueError(_does_not_fit(report.source, name, theirs, own))
    if not exact and class_head == "rows" and namesakes is None:
        _note_other_classes(report, *class_names)
    return fitted


def fit_by_shape(state: StateDict, model: StateDict, report: LoadReport) -> dict[str, Tensor]:
    """As much of a file as has the names and shapes of a model; for backbones, and models of detectron2.

    Args:
        state: names and tensors of the file.
        model: of the model.
        report: filled in.

    Raises:
        ValueError: if a DETR's backbone would keep random weights.
    """
    fitted = {name: x for name, x in state.items() if name in model and x.shape == model[name].shape}
    absent = [name for name in model if name not in fitted]
    lost = [name for name in absent if is_detr(model) and re.fullmatch(r"backbone\..*\.weight", name)]
    if lost:
        raise ValueError(
            f"{report.source} ({report.layout}) has no fitting values for {len(lost)} weights of the backbone, such as "
            f"{lost[0]}: check MODEL.WEIGHTS, MODEL.BACKBONE.NAME and MODEL.RESNETS.DEPTH."
        )
    report.loaded = list(fitted)
    reason = "as the file holds a backbone" if is_detr(model) else "as the file has no fitting values"
    report.reinitialised = dict.fromkeys(absent, reason)
    report.unexpected = [name for name in state if name not in model]
    return fitted


def check_same_masks(state: StateDict, model: StateDict, source: str) -> None:
    """Raises ValueError if only one of a file and a model has a mask head."""
    theirs, own = (any(name.startswith(MASK_HEAD) for name in names) for names in (state, model))
    if theirs != own:
        raise ValueError(
            f"{source} is a model {'with' if theirs else 'without'} a mask head, and the config is of one "
            f"{'with' if own else 'without'}: check the config file."
        )


def _check_levels(state: StateDict, model: StateDict, source: str) -> None:
    if _LEVELS in state and _LEVELS in model and len(state[_LEVELS]) != len(model[_LEVELS]):
        raise ValueError(
            f"{source} is a Deformable DETR whose number of feature levels is {len(state[_LEVELS])}, but "
            f"MODEL.DETR.NUM_FEATURE_LEVELS is {len(model[_LEVELS])}: take the config of that model."
        )


def _check_names(state: StateDict, model: StateDict, report: LoadReport, *, exact: bool) -> None:
    absent = [name for name in model if name not in state]
    report.missing = [name for name in absent if _NOT_NEEDED.fullmatch(name)]
    report.unexpected = [name for name in state if name not in model]
    theirs, own = ([name for name in names if name.startswith(MASK_HEAD)] for names in (state, model))
    if theirs and not own:  # the boxes alone of a model of masks
        report.notes.append(f"mask head: its {len(theirs)} tensors are dropped, as the model predicts boxes alone")
    elif own and not theirs and exact:
        check_same_masks(state, model, report.source)
    elif own and not theirs:  # masks are trained on a box model; part of a mask head is no beginning
        report.reinitialised.update(dict.fromkeys(own, "as the file is a model of boxes alone"))
    spare = theirs if not own else []
    missing = [name for name in absent if not _NOT_NEEDED.fullmatch(name) and name not in report.reinitialised]
    foreign = [name for name in report.unexpected if not _NOT_NEEDED.fullmatch(name) and name not in spare]
    problems = []
    if missing:
        problems.append(f"has no values for {len(missing)} of the model's {len(model)} tensors, such as {missing[0]}")
    if foreign:
        problems.append(f"has {len(foreign)} tensors that the model has not, such as {foreign[0]}")
    if problems:
        raise ValueError(
            f"{report.source} ({report.layout}) {' and '.join(problems)}: it is a model of another config; check the "
            "config file and MODEL.WEIGHTS."
        )


def _does_not_fit(source: str, name: str, theirs: Tensor, own: Tensor) -> str:
    hint = "the config file"
    if CLASS_HEAD.fullmatch(name):
        hint = "the number of classes (MODEL.DETR.NUM_CLASSES)"
    elif name == _QUERIES:
        hint = "MODEL.DETR.NUM_QUERIES"
    return (
        f"{source} does not fit the config: {name} has shape {tuple(theirs.shape)} in the file and {tuple(own.shape)} "
        f"in the model; check {hint}."
    )


def _with_rows(name: str, theirs: Tensor, own: Tensor, rows: list[Row], reason: str, report: LoadReport) -> Tensor:
    """The model's own tensor with some rows of the file's; `reason` is why not all of them."""
    fitted = own.clone()
    if rows:
        mine, other = (torch.tensor(column) for column in zip(*rows, strict=True))
        fitted[mine] = theirs[other].to(own)
    if len(rows) == len(own):
        report.loaded.append(name)
    else:
        report.reinitialised[name] = reason
    return fitted


def _first_queries(theirs: Tensor, own: Tensor, report: LoadReport) -> tuple[list[Row], str] | None:
    if len(theirs) == len(own):
        return None
    kept = min(len(theirs), len(own))
    if kept < len(theirs):
        report.notes.append(f"{_QUERIES}: the first {kept} of {len(theirs)} queries")
    return [(i, i) for i in range(kept)], f"{len(own) - kept} of {len(own)} queries, as the file has {len(theirs)}"


def _proposal_rows(theirs: Tensor, own: Tensor, mode: str) -> tuple[list[Row], str] | None:
    """Of the head of a two-stage encoder, whose row 0 tells objects of any class from background."""
    if theirs.shape == own.shape and mode != "names":
        return _class_rows(theirs, own, mode, None, (None, None))
    return [(0, 0)], "all but the first row, which tells objects of any class from background"


def _class_rows(
    theirs: Tensor, own: Tensor, mode: str, namesakes: list[Row] | None, names: ClassNames
) -> tuple[list[Row], str] | None:
    if namesakes is not None:
        no_object = all(len(rows) == len(known or ()) + 1 for rows, known in zip((theirs, own), names, strict=True))
        rows = [*namesakes, (len(own) - 1, len(theirs) - 1)] if no_object else namesakes
        return rows, f"{len(own) - len(rows)} of {len(own)} rows, whose classes the file does not name"
    if mode == "none":
        return [], "as MODEL.DETR.CLASS_HEAD_FROM is none"
    if len(theirs) != len(own):
        return [], f"as the file has {len(theirs)} rows and the model {len(own)}"
    return None


def _namesakes(
    report: LoadReport, mode: str, theirs: Sequence[str] | None, own: Sequence[str] | None
) -> list[Row] | None:
    """Rows to be taken by name: as the mode says, or because the classes are the same in another order."""
    if mode == "names" and not (theirs and own):
        where = "the metadata of the training data" if theirs else report.source
        raise ValueError(
            f"MODEL.DETR.CLASS_HEAD_FROM is names, but {where} does not name its classes: set it to rows or none."
        )
    if mode == "none" or not (theirs and own):
        return None
    match = match_classes(own, theirs)
    if mode == "rows" and (match.same_order or not match.same_classes):
        return None
    rows = [(row, other) for row, other in enumerate(match.to_data) if other >= 0 and theirs[other] != UNNAMED]
    names = listed([own[row] for row, _ in rows])
    report.notes.append(f"class head: rows of {len(rows)} of {len(own)} classes by name: {names or 'none'}")
    return rows


def _note_other_classes(report: LoadReport, theirs: Sequence[str] | None, own: Sequence[str] | None) -> None:
    if theirs and own and len(theirs) == len(own) and not match_classes(own, theirs).same_order:
        report.notes.append(
            "class head: taken over, although the classes have other names; MODEL.DETR.CLASS_HEAD_FROM names or none "
            "would not"
        )
