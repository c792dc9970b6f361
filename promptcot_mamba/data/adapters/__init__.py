"""The training sources: one module a data set, one line each in `ADAPTERS`."""

from collections.abc import Mapping, Sequence

from promptcot_mamba.data.adapters.adapter import Adapter
from promptcot_mamba.data.adapters.generic import make_generic
from promptcot_mamba.data.adapters.opencodereasoning import CPP_2, PYTHON_2, SPLIT_0, SPLIT_1
from promptcot_mamba.data.adapters.openmathreasoning import OPENMATHREASONING
from promptcot_mamba.data.adapters.openthoughts2 import OPENTHOUGHTS2, OPENTHOUGHTS3
from promptcot_mamba.data.adapters.promptcot import PROMPTCOT_2, PROMPTCOT_DS, PROMPTCOT_QWQ, SYNTHESIS
from promptcot_mamba.data.conversation import Reading
from promptcot_mamba.data.shapes import Shape, recognise
from promptcot_mamba.errors import InputError

ADAPTERS: dict[str, Adapter] = {
    "opencodereasoning_0": SPLIT_0,
    "opencodereasoning_1": SPLIT_1,
    "opencodereasoning2_python": PYTHON_2,
    "opencodereasoning2_cpp": CPP_2,
    "openmathreasoning": OPENMATHREASONING,
    "openthoughts2": OPENTHOUGHTS2,
    "openthoughts3": OPENTHOUGHTS3,
    "promptcot_ds": PROMPTCOT_DS,
    "promptcot_qwq": PROMPTCOT_QWQ,
    "promptcot2_sft": PROMPTCOT_2,
    "synthesis": SYNTHESIS,
    "generic": make_generic(),
}


def recognise_rows(columns: Sequence[str], where: str) -> Shape:
    """The shape of rows with these columns; raises InputError, naming the adapters that read them, where none is."""
    try:
        return recognise(columns, where)
    except InputError as error:
        own = [name for name, one in ADAPTERS.items() if len(one.columns) > 1 and set(one.columns) <= set(columns)]
        mend = f"; adapter {' or '.join(own)} reads these columns" if own else ""
        raise InputError(f"{error}{mend}") from None


def get_adapter(
    name: str,
    columns: Mapping[str, str] | None = None,
    domain: str | None = None,
    reading: Reading | None = None,
) -> Adapter:
    """The adapter of this name; `columns`, `domain` and `reading` shape the generic one.

    Raises InputError for an unknown adapter, or a column map on an adapter that has its own columns.
    """
    if name not in ADAPTERS:
        raise InputError(f"unknown adapter {name!r}; known: {', '.join(ADAPTERS)}")
    if name == "generic":
        return make_generic(columns, domain, reading)
    if columns:
        raise InputError(f"adapter {name!r} knows its columns; a column map belongs to adapter 'generic'")
    return ADAPTERS[name]
