"""A client of the MediaWiki Action API (https://www.mediawiki.org/wiki/API) with few requests and many retries.

It keeps to the API's etiquette (https://www.mediawiki.org/wiki/API:Etiquette): a User-Agent that says who asks, gzip,
``maxlag``, one request at a time, Retry-After honoured, exponential backoff with jitter otherwise.
"""

import email.utils
import logging
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_exponential_jitter

from minillm.errors import MiniLLMError, OutsideError, SettingError

log = logging.getLogger(__name__)

MOST_PAGES = 50  # the API's limit per request for ordinary clients: titles, pageids and revids
FIRST_RETRIES = 3  # at an address that has not yet answered as a wiki
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between tries, doubled each time, with jitter
LONGEST_ASKED_WAIT = 3600.0  # seconds; longer requested waits are cut to this
MAXLAG = 5  # seconds; requests wait while the wiki's database replicas lag more
PASSING_CODES = ("maxlag", "ratelimited", "readonly", "internal_api_error")  # error codes (or their beginnings)
PASSING_STATUSES = (408, 425, 429)  # and every 5xx


class _PassingError(Exception):
    """A fault after which another try may succeed.

    Args:
        problem: what happened.
        wait: seconds that the server asked us to wait; 0: it did not.
    """

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


class MediaWiki:
    """One wiki's API.

    Args:
        api_url: address of its api.php.
        contact: an e-mail or web address for the wiki's operators, in the User-Agent.
        timeout: seconds to wait for a connection, and for each next piece of an answer.
        retries: further tries after a passing fault.

    Attributes:
        known: whether the address has answered as a MediaWiki API.
        counts: ``requests`` made, ``bytes`` of content received and ``seconds`` spent, failed tries included.
    """

    def __init__(self, api_url: str, contact: str | None = None, timeout: float = 30.0, retries: int = 8) -> None:
        self.api_url, self.retries = api_url, retries
        self.counts: Counter[str] = Counter()
        self.known = False
        if not contact:
            log.info("data.source.contact=MAIL or ADDRESS would let the wiki's operators write to you")
        agent = f"miniLLM/{version('minillm')} ({contact or 'no contact given'}) httpx/{httpx.__version__}"
        try:
            self._client = httpx.Client(timeout=timeout, headers={"User-Agent": agent}, follow_redirects=True)
            port = self._client.build_request("GET", api_url).url.port
        except (httpx.InvalidURL, ValueError) as error:
            raise SettingError("data.source.api_url", api_url, f"is no web address ({error})") from error
        if port is not None and not 0 < port < 1 << 16:
            raise SettingError("data.source.api_url", api_url, f"has the port {port}: there are ports from 1 to 65535")
        self._backoff = wait_exponential_jitter(multiplier=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, **parameters: Any) -> dict[str, Any]:
        """Return the API's answer to one request; passing faults are retried.

        Args:
            parameters: of the API; lists are joined by ``|``, and None is left out.

        Raises:
            SettingError: there is no MediaWiki API at the address.
            OutsideError: the network or the wiki failed, for good or more often than ``retries`` allows.
        """
        values = {
            name: "|".join(map(str, value)) if isinstance(value, list | tuple) else value
            for name, value in {"format": "json", "formatversion": 2, "maxlag": MAXLAG, **parameters}.items()
            if value is not None
        }
        retrying = Retrying(
            retry=retry_if_exception_type(_PassingError),
            stop=self._is_enough,
            wait=self._wait,
            before_sleep=self._tell,
            reraise=True,
        )
        try:
            return retrying(self._try, values)
        except _PassingError as fault:
            raise self._failure(fault) from fault

    def pages(self, resume: dict[str, Any], **parameters: Any) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
        """Yield the pages of a query in batches, each with the position of the next batch, to the query's end.

        Args:
            resume: where to begin: empty: at the beginning; or a position that came with a batch.
            parameters: of the query.
        """
        while True:
            pages: dict[int, dict[str, Any]] = {}
            complete = False
            while not complete:
                answer = self.get(action="query", **(parameters | resume))
                # The answer to a large batch comes in parts, so each page's properties are merged.
                for page in answer.get("query", {}).get("pages", []):
                    pages.setdefault(page.get("pageid", -1 - len(pages)), {}).update(page)
                resume = answer.get("continue", {})
                complete = "batchcomplete" in answer or not resume
            yield list(pages.values()), resume
            if not resume:
                return

    def _try(self, values: dict[str, Any]) -> dict[str, Any]:
        """Make one request; raise _PassingError if another try may succeed."""
        start = time.monotonic()
        self.counts["requests"] += 1
        try:
            # Fifty long titles do not fit in an address.
            if "titles" in values:
                response = self._client.post(self.api_url, data=values)
            else:
                response = self._client.get(self.api_url, params=values)
            self.counts["bytes"] += response.num_bytes_downloaded
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise SettingError("data.source.api_url", self.api_url, f"cannot be asked ({error})") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _PassingError(str(error) or type(error).__name__) from error
        finally:
            self.counts["seconds"] += time.monotonic() - start  # type: ignore[assignment]
        return self._content(response)

    def _content(self, response: httpx.Response) -> dict[str, Any]:
        status, wait = response.status_code, _retry_after(response)
        if status in PASSING_STATUSES or status >= 500:
            raise _PassingError(f"HTTP {status} {response.reason_phrase}", wait)
        if status != 200:
            raise SettingError("data.source.api_url", self.api_url, f"is no MediaWiki API: it answers HTTP {status}")
        try:
            content = response.json()
        except ValueError as error:
            kind = response.headers.get("content-type", "nothing").partition(";")[0]
            raise _PassingError(f"an answer that is no whole JSON ({kind})", wait) from error
        if not isinstance(content, dict):
            raise SettingError("data.source.api_url", self.api_url, "is no MediaWiki API: it answers another JSON")
        if problem := content.get("error"):
            code, info = str(problem.get("code")), str(problem.get("info"))
            if code.startswith(PASSING_CODES):
                raise _PassingError(f"{code}: {info}", wait)
            raise OutsideError(f"{self.api_url} refuses the request: {code}: {info}")
        self.known = True
        return content

    def _failure(self, fault: _PassingError) -> MiniLLMError:
        """Return the error for a fault that no further try overcame."""
        tries = f"after {self._tries(fault)} tries"
        if isinstance(fault.__cause__, httpx.ConnectError):
            advice = "is the address right and the network up? data=sample works offline"
            return OutsideError(f"{self.api_url} cannot be reached {tries} ({fault}); {advice}")
        if isinstance(fault.__cause__, ValueError) and not self.known:
            return SettingError("data.source.api_url", self.api_url, f"is no MediaWiki API: it gave {fault} {tries}")
        return OutsideError(f"{self.api_url} failed {tries} ({fault})")

    def _tries(self, fault: BaseException | None) -> int:
        """Return the number of tries after a fault: few while the address has not answered as a wiki."""
        if not self.known and isinstance(fault and fault.__cause__, httpx.ConnectError | ValueError):
            return min(self.retries, FIRST_RETRIES) + 1
        return self.retries + 1

    def _is_enough(self, state: RetryCallState) -> bool:
        return state.attempt_number >= self._tries(state.outcome.exception() if state.outcome else None)

    def _wait(self, state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        return max(self._backoff(state), fault.wait if isinstance(fault, _PassingError) else 0.0)

    def _tell(self, state: RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        log.info("try %d of %d: %s; again in %.1f s", state.attempt_number, self._tries(fault), fault, wait)


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or a date, within bounds; 0 without one."""
    value = response.headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (OverflowError, TypeError, ValueError):
            return 0.0
    return min(seconds, LONGEST_ASKED_WAIT) if seconds > 0 else 0.0  # also for NaN
