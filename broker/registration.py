"""What a factory registered, as the claims of a batch heed it: before any job is looked at."""

import structlog

from broker.controls import UNREGISTERED, Controls, FactoryRecord
from broker.messages import Claim, Request
from datastore import DatastoreError

log = structlog.get_logger(__name__)


def with_offers(controls: Controls, request: Request) -> Request:
    """A claim that names no offers, with those its factory registered."""
    if type(request) is not Claim or request.body.offers:
        return request
    offers = known(controls, request.factory_id).offers
    if not offers:
        return request
    body = request.body.model_copy(update={"offers": offers})  # validated when they were registered
    return request.model_copy(update={"body": body})


def known(controls: Controls, factory_id: str) -> FactoryRecord:
    """What is known of a factory. Where that can't be read nothing is: no job is granted without a further read."""
    try:
        return controls.factory(factory_id)
    except DatastoreError as error:
        log.warning("factory_not_read", factory=factory_id, error=str(error))
        return UNREGISTERED
