"""A model's switches as checked options, derived from its constructor: declared once.

The constructor's annotations give the types, its defaults the paper's best row, and the `Args` of
its class docstring the help text. What the run decides (the number of training subjects, the
frames' size and channels) is not an option.
"""

from __future__ import annotations

import inspect
import typing
from typing import Any

import docstring_parser
import pydantic
from pydantic import ConfigDict
from torch import nn

from raygait.models import MODELS

_GIVEN_BY_THE_RUN = frozenset({"num_subjects", "in_channels", "input_size_px"})


class ModelOptions(pydantic.BaseModel):
    """Options of one architecture; the derived classes add its switches.

    Attributes:
        architecture: Key of `raygait.models.MODELS`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    architecture: str

    def switches(self) -> dict[str, Any]:
        """Keyword arguments for the model's constructor."""
        return {
            name: getattr(self, name) for name in type(self).model_fields if name != "architecture"
        }


def options_of(architecture: str, model: type[nn.Module]) -> type[ModelOptions]:
    """Derive the option class of a model from its constructor and class docstring.

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
        if parameter.default is inspect.Parameter.empty or name not in hints:
            raise TypeError(
                f"{model.__name__}({name}): an option needs an annotation and a default"
            )
        fields[name] = (
            hints[name],
            pydantic.Field(default=parameter.default, description=described.get(name, "")),
        )
    return pydantic.create_model(
        f"{model.__name__}Options", __base__=ModelOptions, __module__=__name__, **fields
    )


MODEL_OPTIONS: dict[str, type[ModelOptions]] = {
    architecture: options_of(architecture, model) for architecture, model in MODELS.items()
}
