"""Ask an MLflow server whether it answers, is one, and lets the user in, before a command does any work for it."""

from __future__ import annotations

from http import HTTPStatus

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests import Response

from mammo_mlflow.databases import Unusable
from mammo_mlflow.servers import NoAnswer, in_time
from mammo_mlflow.wording import scrubbed

PAGE = "/api/2.0/mlflow/experiments/search"
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def look_at_mlflow(uri: str) -> None:
    """Ask an MLflow server for one MLflow experiment. Raises `Unusable`, within seconds, where it does not answer."""

    def ask() -> Response:
        return http_request(
            get_default_host_creds(uri.rstrip("/")),
            PAGE,
            "GET",
            params={"max_results": 1},
            max_retries=0,
            raise_on_status=False,
            allow_redirects=False,
        )

    try:
        answer = in_time(ask)
    except NoAnswer as problem:
        raise Unusable(str(problem)) from None
    except (MlflowException, OSError) as problem:
        raise Unusable(_why(problem)) from None
    if (status := answer.status_code) == HTTPStatus.UNAUTHORIZED:
        raise Unusable(f"one that does not let this user in (401): {CREDENTIALS} say who it is")
    if status == HTTPStatus.FORBIDDEN:
        said = scrubbed(" ".join(answer.text.split()))[:120]
        raise Unusable(f"one that refuses this user or address (403): {said}")
    if status != HTTPStatus.OK:
        raise Unusable(f"status {status} ({answer.reason or 'no reason'})")
    try:
        known = isinstance(answer.json(), dict)
    except ValueError:
        known = False
    if not known:
        kind = answer.headers.get("Content-Type", "something unknown").partition(";")[0]
        raise Unusable(f"{kind}, which is not what MLflow answers")


def _why(problem: BaseException) -> str:
    """The system's reason below what the libraries raise on top of one another."""
    seen: BaseException | None = problem
    found = str(problem)
    while seen is not None:
        found = str(seen) or found
        inner = getattr(seen, "reason", None) or next((one for one in seen.args if isinstance(one, Exception)), None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__ or seen.__context__
    return scrubbed(found.splitlines()[0].rpartition(">: ")[2])
