"""Attributes → labels: those of data points, and what resource and scope add to every series."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from coordinator.write.otlp.names import NamingError, label_name
from coordinator.write.otlp.texts import value_text

__all__ = ["NOTHING", "Labels", "Promotion", "Resource", "point_labels", "resource_of", "scope_labels"]

Labels = dict[str, str]

_NAME, _NAMESPACE, _INSTANCE = "service.name", "service.namespace", "service.instance.id"
_IDENTIFYING = frozenset({_NAME, _NAMESPACE, _INSTANCE})


class Promotion(NamedTuple):
    """What of a resource and of a scope becomes labels of every series, besides job and instance; nothing, as in Prometheus."""

    resource_attributes: frozenset[str] = frozenset()
    scope: bool = False


NOTHING = Promotion()


class Resource(NamedTuple):
    """What a resource adds to the series of its metrics."""

    identity: Labels
    """``job`` and ``instance``; they replace what a data point has under these names."""
    promoted: Labels
    """They do not."""
    target: Labels | None
    """The labels of its ``target_info``, but for the name; None: it has none."""


def resource_of(attributes: Iterable[Any], promotion: Promotion) -> Resource:
    """Attributes that can have no name in Prometheus are left out."""
    texts = {one.key: value_text(one.value) for one in attributes if _has_name(one.key)}
    job = "/".join(texts[name] for name in (_NAMESPACE, _NAME) if name in texts) if _NAME in texts else ""
    identity = _without_empty({"job": job, "instance": texts.get(_INSTANCE, "")})
    promoted = {label_name(name): text for name, text in texts.items() if name in promotion.resource_attributes}
    described = {name: text for name, text in texts.items() if name not in _IDENTIFYING}
    # Without anything to say of the target, or without one, it would be of no use.
    target = _without_empty({**_merged(described), **identity}) if described else {}
    return Resource(identity, promoted, target if target.keys() & {"job", "instance"} else None)


def scope_labels(scope: Any, schema_url: str, promotion: Promotion) -> Labels:
    """Raises ``NamingError``."""
    if not promotion.scope or not scope.name:
        return {}
    labels = {label_name(f"otel_scope_{one.key}"): value_text(one.value) for one in scope.attributes}
    return {
        **labels,
        "otel_scope_name": scope.name,
        "otel_scope_version": scope.version,
        "otel_scope_schema_url": schema_url,
    }


def point_labels(attributes: Iterable[Any], resource: Resource, scope: Labels) -> Labels:
    """All labels of a series but its name. Raises ``NamingError``."""
    own = _without_empty(_merged({one.key: value_text(one.value) for one in attributes}))
    return {**_without_empty(resource.promoted), **own, **resource.identity, **_without_empty(scope)}


def _has_name(attribute: str) -> bool:
    try:
        label_name(attribute)
    except NamingError:
        return False
    return True


def _merged(texts: Labels) -> Labels:
    """Attributes whose names come to be the same have one label with all of their values, in the order of their names."""
    labels: Labels = {}
    for name, text in sorted(texts.items()):
        if name == "__name__":
            continue
        label = label_name(name)
        labels[label] = f"{labels[label]};{text}" if labels.get(label) else text
    return labels


def _without_empty(labels: Labels) -> Labels:
    """A label without a value is none."""
    return {name: text for name, text in labels.items() if text}
