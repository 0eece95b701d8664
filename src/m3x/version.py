"""The one place that states the version of the distribution."""

VERSION = "0.1.0"
