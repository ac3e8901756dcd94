"""A model's switches as checked options, derived from its constructor: declared once.

The constructor's annotations give the types, its defaults the paper's best row, and the `Args` of
its class docstring the help text. What the run decides (the number of training subjects, the
frames' size and channels) is not an option. A network inside a network (GaitEdge's recogniser) is
a section of options of its own.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import Annotated, Any

import docstring_parser
import pydantic
from pydantic import BeforeValidator, ConfigDict, SerializeAsAny
from torch import nn

from raygait.models import MODELS, PARTS, SEGMENTERS

_GIVEN_BY_THE_RUN = frozenset({"num_subjects", "in_channels", "input_size_px"})


class ModelOptions(pydantic.BaseModel):
    """Options of one architecture; the derived classes add its switches.

    Attributes:
        architecture: Key of `raygait.models.MODELS`, or of `SEGMENTERS` for a segmenter.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    architecture: str

    def switches(self) -> dict[str, Any]:
        """Arguments of the constructor, by name; a network inside is still its `ModelOptions`."""
        return {
            name: getattr(self, name) for name in type(self).model_fields if name != "architecture"
        }

    def build(self, **given_by_the_run: Any) -> nn.Module:
        """The network with fresh weights from torch's global seed.

        Args:
            given_by_the_run: `num_subjects`, `in_channels` and `input_size_px`, of which a network
                gets what it takes. A network inside gets the first; its own channels and size are
                its defaults.

        Raises:
            ValueError: Two switches do not fit each other.
        """
        switches = self.switches()
        for name, value in switches.items():
            if isinstance(value, ModelOptions):
                shared = given_by_the_run.keys() & {"num_subjects"}
                switches[name] = value.build(**{key: given_by_the_run[key] for key in shared})
        network = (MODELS | SEGMENTERS)[self.architecture]
        taken = inspect.signature(network).parameters.keys() & given_by_the_run.keys()
        return network(**{key: given_by_the_run[key] for key in taken}, **switches)


def options_of_any(value: Any) -> Any:
    """Turn a mapping with an `architecture` into that architecture's options.

    Args:
        value: As it comes from JSON; anything but a mapping is handed on.

    Raises:
        ValueError: No architecture has this name, or its options do not check out.
    """
    if not isinstance(value, Mapping):
        return value
    architecture = value.get("architecture")
    if not isinstance(architecture, str) or architecture not in MODEL_OPTIONS:
        raise ValueError(f"architecture is {architecture!r}; known are {sorted(MODEL_OPTIONS)}")
    return MODEL_OPTIONS[architecture].model_validate(dict(value))


AnyModelOptions = Annotated[SerializeAsAny[ModelOptions], BeforeValidator(options_of_any)]


def options_of(
    architecture: str, model: type[nn.Module], parts: Mapping[str, ModelOptions] | None = None
) -> type[ModelOptions]:
    """Derive the option class of a model from its constructor and class docstring.

    Args:
        architecture: Its key.
        model: Its class.
        parts: Default options of each argument that is a network.

    Raises:
        TypeError: A switch has no default or no annotation, so it cannot be an option.
    """
    hints = typing.get_type_hints(model.__init__)
    described = {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for parameter in docstring_parser.parse(inspect.getdoc(model) or "").params
    }
    fields: dict[str, Any] = {
        "architecture": (
            typing.Literal[architecture],
            pydantic.Field(default=architecture, description="Key of raygait.models.MODELS."),
        )
    }
    for name, parameter in inspect.signature(model).parameters.items():
        if name in _GIVEN_BY_THE_RUN:
            continue
        description = described.get(name, "")
        if parts and name in parts:
            fields[name] = (
                AnyModelOptions,
                pydantic.Field(default=parts[name], description=description),
            )
            continue
        if parameter.default is inspect.Parameter.empty or name not in hints:
            raise TypeError(
                f"{model.__name__}({name}): an option needs an annotation and a default"
            )
        fields[name] = (
            hints[name],
            pydantic.Field(default=parameter.default, description=description),
        )
    return pydantic.create_model(
        f"{model.__name__}Options", __base__=ModelOptions, __module__=__name__, **fields
    )


def _derive_all() -> dict[str, type[ModelOptions]]:
    derived: dict[str, type[ModelOptions]] = {}
    # Networks with others inside come last: their defaults are options of the others.
    for architecture, network in sorted(
        (MODELS | SEGMENTERS).items(), key=lambda item: item[0] in PARTS
    ):
        parts = {
            name: derived[part](architecture=part)
            for name, part in PARTS.get(architecture, {}).items()
        }
        derived[architecture] = options_of(architecture, network, parts)
    return derived


MODEL_OPTIONS: dict[str, type[ModelOptions]] = _derive_all()


def model_options(architecture: str, **switches: Any) -> ModelOptions:
    """Options of an architecture by its name, for recipes.

    Args:
        architecture: Key of `raygait.models.MODELS` or `SEGMENTERS`.
        switches: What differs from the defaults.

    Raises:
        KeyError: There is no such architecture.
        pydantic.ValidationError: A switch is unknown or its value does not fit.
    """
    return MODEL_OPTIONS[architecture].model_validate({"architecture": architecture, **switches})
