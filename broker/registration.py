"""What a factory registered, as the claims of a batch heed it: before any job is looked at."""

import structlog

from broker.controls import UNREGISTERED, Controls, FactoryRecord
from broker.messages import Claim
from datastore import DatastoreError

log = structlog.get_logger(__name__)


def with_offers(controls: Controls, claim: Claim) -> Claim:
    """A claim-next that names no offers, with those its factory registered: what jobs it is proposed hangs on them."""
    named = claim.body.offers
    found = offers(controls, claim.factory_id, named)
    if found is named or not found:
        return claim
    body = claim.body.model_copy(update={"offers": found})  # validated when they were registered
    return claim.model_copy(update={"body": body})


def offers(controls: Controls, factory_id: str, named: tuple[str, ...]) -> tuple[str, ...]:
    """What a claim offers: where it has `named` nothing, what its factory registered."""
    return named or known(controls, factory_id).offers


def known(controls: Controls, factory_id: str) -> FactoryRecord:
    """What is known of a factory. Where that can't be read nothing is: no job is granted without a further read."""
    try:
        return controls.factory(factory_id)
    except DatastoreError as error:
        log.warning("factory_not_read", factory=factory_id, error=str(error))
        return UNREGISTERED
