"""What the schemas of users' files share: JSON that users edit, and what training fits to it."""

import abc
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from jdmm.errors import InputError
from jdmm.fields import checked_fields, from_fields
from jdmm.files import load_json, save_json

SCHEMA = "schema.json"
"""What a work directory keeps."""


class FittedSchema(abc.ABC):
    """A description of a file, with statistics of its training part once they are fitted.

    A subclass is a frozen dataclass with a field `fitted`: a mark of all that is not fitted, which
    an edited description does not have.

    Attributes:
        section: the field that describes the parts of the file by name.
        entry: the dataclass of one of them.
        statistics: the names of what is fitted, for messages.
    """

    fitted: str
    section: ClassVar[str]
    entry: ClassVar[type]
    statistics: ClassVar[str]

    @abc.abstractmethod
    def without_fit(self) -> Self:
        """The schema before it is fitted."""

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """The inverse of `to_dict`.

        Raises:
            InputError: for an unknown field, one of another type, or an impossible value.
        """
        section, entry = cls.section, cls.entry
        if not isinstance(content, Mapping) or not isinstance(content.get(section), Mapping):
            raise InputError(f"expected a schema with a section {section}, got something else")
        entries = {}
        for name, given in content[section].items():
            try:
                entries[name] = from_fields(entry, f"{section}.{name}", given)
            except InputError as error:
                raise InputError(f"{name!r} in {section}: {error}") from error
        rest = {name: value for name, value in content.items() if name != section}
        fields: Any = checked_fields(cls, "schema", rest, omit=(section,))
        return cls(**{section: entries}, **fields)

    @property
    def mark(self) -> str:
        """A digest of all that is not fitted."""
        content = json.dumps(self.without_fit().to_dict(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def check_mark(self, fits: bool) -> None:
        """Checks that statistics are those of this description.

        Args:
            fits: whether there are any.

        Raises:
            InputError: if the description was edited after they were fitted.
        """
        if (self.fitted or fits) and self.fitted != self.mark:
            raise InputError(
                "expected the schema that its mean and sd were fitted for, got an edited one: "
                f"remove {self.statistics} and fitted from it, give it as --config.data.schema, "
                "and train in another --workdir"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the schema as JSON.

        Raises:
            InputError: if the file cannot be written.
        """
        save_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a schema that `save` or a user wrote.

        Raises:
            InputError: if it cannot be read or is no schema. The message begins with the path.
        """
        return load_json(path, "a schema", cls.from_dict)

    @classmethod
    def kept_in(cls, workdir: Path, given: str) -> str:
        """The path of the schema that a work directory keeps, or the given one if it keeps none.

        Args:
            workdir: the work directory.
            given: the path of the schema that the configuration names; "" for none.

        Raises:
            InputError: if the kept one cannot be read or was edited, or the given one is another.
        """
        kept = workdir / SCHEMA
        if not kept.exists():
            return given
        elsewhere = f"give it as --config.data.schema with another --workdir than {workdir}"
        own = cls.load(kept)
        if not own.fitted:
            raise InputError(f"{kept}: expected mean and sd, which training wrote: {elsewhere}")
        if given:
            named = cls.load(given)
            if named != (own if named.fitted else own.without_fit()):
                raise InputError(
                    f"{given}: expected the schema of {kept}, got another one: {elsewhere}"
                )
        return str(kept)
