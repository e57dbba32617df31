"""Rights by themselves: what a text means, what covers what, and what each method takes."""

import pytest

from rowloom.proto import methods
from rowloom.proto.errors import InvalidRequest, PermissionDenied
from rowloom.server.access.rights import NEEDED, VERBS, Grant, Principal

NAMES = [
    v
    for k, v in vars(methods).items()
    if k.isupper() and isinstance(v, str) and v.count("/") == 2 and v[-1] != "/"
]


def somebody(*allow: str) -> Principal:
    return Principal("ann", tuple(map(Grant.parse, allow)))


def allowed(principal: Principal, method: str) -> bool:
    try:
        principal.check_method(method)
    except PermissionDenied:
        return False
    return True


@pytest.mark.parametrize(
    "text", ["", "pull", "pull:", ":users", "read:users", "pull:us ers", "PULL:users", "pull:a/b", 7]
)
def test_what_is_no_right_is_refused_with_what_is_one(text):
    with pytest.raises(InvalidRequest, match=r"is no right: it is VERB:TABLES"):
        Grant.parse(text)


def test_a_star_stands_for_any_part_of_a_name_and_a_dot_for_itself():
    ads = somebody("pull:ads.*")
    assert ads.may("pull", "ads.users")
    assert ads.may("pull", "ads.")
    assert not ads.may("pull", "adsxusers")
    assert not ads.may("pull", "ads")
    assert not ads.may("push", "ads.users")
    assert all(somebody("*:*").may(verb, "any") for verb in VERBS)
    assert not any(somebody().may(verb, "any") for verb in VERBS)


def test_a_method_that_nobody_opened_takes_admin_on_all_tables():
    closed = [method for method in NAMES if method not in NEEDED]
    assert methods.ADOPT in closed
    assert methods.SHUT_DOWN in closed
    assert methods.TAKE_SNAPSHOT in closed
    for method in [*closed, "/rowloom.v1.Shard/AddedTomorrow"]:
        assert allowed(somebody("admin:*"), method)
        assert allowed(somebody("*:*"), method)
        assert not allowed(somebody("pull:*", "push:*", "create:*", "admin:users", "*:users"), method)


def test_each_verb_opens_its_methods_and_no_others():
    for verb in VERBS:
        opened = {method for method in NEEDED if allowed(somebody(f"{verb}:users"), method)}
        assert opened == {method for method, verbs in NEEDED.items() if set(verbs) <= {verb}}
    assert allowed(somebody("pull:a", "push:b"), methods.STEP)
    assert not allowed(somebody("push:b"), methods.STEP)


def test_a_refusal_names_who_what_and_the_right_that_is_missing():
    with pytest.raises(PermissionDenied) as caught:
        somebody("pull:users").check("push", "users")
    assert str(caught.value) == (
        "'ann' may not push to table 'users': it lacks the right push:users and has pull:users; a token that "
        "has it can be named (ROWLOOM_TOKEN_FILE, `token_file=`), and `rowloom secure token` makes one"
    )
