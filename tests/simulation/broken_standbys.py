"""Builds whose standbys are broken on purpose. The simulator must notice every one of them."""

from rowloom.deploy.standby.standbys import Standbys
from rowloom.server.standby.feed import Feed
from rowloom.server.standby.following import Following

UNTIL_CAUGHT = 300  # seeds


def acknowledges_before_the_standby_has_it(patch) -> None:
    """A push is answered at once."""
    patch.setattr(Feed, "covers", lambda self, position: True)


def puts_a_standby_in_place_that_is_not_in_step(patch) -> None:
    """Whoever stands by will do, and says that it does."""
    patch.setattr(
        Standbys,
        "_can_take_over",
        lambda self, index, seen: index in self._coordinator.state.standbys and index in seen.healths,
    )
    patch.setattr(Following, "in_step", property(lambda self: self.shard is not None))


def serves_without_its_standby(patch) -> None:
    """A server that has not heard of its standby goes on."""
    patch.setattr(Feed, "holds", lambda self, now: True)


def takes_the_place_at_once(patch) -> None:
    """A standby does not wait until the server before serves no more."""
    serve = Following.shard_to_serve
    patch.setattr(Following, "shard_to_serve", lambda self, *, ended: serve(self, ended=True))


def goes_on_to_follow(patch) -> None:
    """The server before hears that a standby has its changes, which serves already and drops them."""
    patch.setattr(Following, "stop", lambda self: None)


def forgets_what_came_before_the_first_question(patch) -> None:
    """A standby is in step as soon as it is filled."""
    patch.setattr(Following, "in_step", property(lambda self: not self.failed and self._begun_at is not None))


# The others need clients that reach a server which its standby and the coordinator do not: no history has that yet.
BUILDS = [acknowledges_before_the_standby_has_it, puts_a_standby_in_place_that_is_not_in_step]
