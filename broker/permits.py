"""Which operations the owner of a key may ask for. Redis can only limit lists; this limits what stands on them."""

from collections.abc import Mapping

from broker.messages import Request, Submit
from broker.signing import KeyId, Role

_READS = frozenset(
    {"get_job", "list_jobs", "list_runs", "explain", "list_limits", "list_queues", "list_schedules"}
    | {"get_factory", "list_factories"}
)
_HOLDS = frozenset({"claim", "renew", "renew_many", "complete", "fail", "release", "hand_over", "progress"})
_OF_ITSELF = frozenset({"drain_factory", "resume_factory"})
"""What a factory may ask for where the body names itself."""

PERMITS: Mapping[Role, frozenset[str]] = {
    Role.READER: _READS,
    Role.SUBMITTER: _READS | {"submit", "cancel"},
    Role.FACTORY: _READS | _HOLDS | {"submit", "register_factory"},
}
"""Operations by role; the operator may ask for all of them."""


def permitted(key_id: KeyId, request: Request) -> bool:
    """Whether the owner of this key may ask for this."""
    if key_id.role is Role.OPERATOR:
        return True
    if isinstance(request, Submit) and _cancels(request):
        return "cancel" in PERMITS[key_id.role]
    if request.op in PERMITS[key_id.role]:
        return True
    own = key_id.role is Role.FACTORY and request.op in _OF_ITSELF
    return own and getattr(request.body, "factory", None) == key_id.factory


def in_words(key_id: KeyId, request: Request) -> str:
    """What the owner of this key asks for and may not, where the operation alone does not tell."""
    if isinstance(request, Submit) and _cancels(request) and "submit" in PERMITS.get(key_id.role, ()):
        return "a submission that cancels other jobs (supersedes, or unique with replace)"
    own = key_id.role is Role.FACTORY and request.op in _OF_ITSELF
    return f"{request.op} of another factory" if own else request.op


def _cancels(request: Submit) -> bool:
    """Whether a submission cancels jobs of others that wait."""
    body = request.body
    return body.supersedes is not None or (body.unique is not None and body.unique.policy == "replace")
