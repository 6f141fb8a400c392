"""The memory and the nerve of business-intelligence chat: an event-sourced CQRS backend."""

__version__ = "0.1.0"
