"""Where finished photographs are: in the work of an interrupted run, or in the release before."""

from __future__ import annotations

from services.core.errors import ConfigurationError
from services.embedder.catalogue import Catalogue
from services.embedder.records import Photograph
from services.embedder.work import Work


class Source:
    """Finds them by id; safe to read from several threads at once."""

    def __init__(self, work: Work, catalogue: Catalogue | None) -> None:
        self._work = work
        self._catalogue = catalogue

    def get(self, photograph_id: str) -> Photograph | None:
        """Returns a finished photograph; None where it is nowhere."""
        found = self._work.get(photograph_id)
        if found is None and self._catalogue is not None:
            found = self._catalogue.photograph(photograph_id)
        return found

    def require(self, photograph_id: str) -> Photograph:
        """Returns a finished photograph.

        Raises: ConfigurationError: it is in neither, for example because the work folder was removed during the run.
        """
        found = self.get(photograph_id)
        if found is None:
            raise ConfigurationError(
                f"The work on photograph {photograph_id[:12]} is gone; run the same command again."
            )
        return found
