"""docs/configuration.md is what the types that read the files say."""

from lab.configuration_reference import PAGE, SERVICES, keys, own_keys, page, places


def test_the_page_is_as_the_types_have_it() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m lab.configuration_reference"


def test_own_keys_are_keys_in_order() -> None:
    known = {key.id for root in SERVICES.values() for section in places(root) for key in keys(section)}
    assert own_keys() <= known
