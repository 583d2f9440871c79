"""The journal's tables."""

from __future__ import annotations

FIRST = "migrations"
"""The table that every journal has."""

SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS migrations (
        migration VARCHAR(64) NOT NULL PRIMARY KEY,
        created VARCHAR(40) NOT NULL,
        updated VARCHAR(40),
        domain TEXT NOT NULL,
        domain_uuid VARCHAR(36) NOT NULL,
        source_uri TEXT NOT NULL,
        destination_uri TEXT NOT NULL,
        state VARCHAR(64) NOT NULL,
        heading_for VARCHAR(64) NOT NULL,
        final BOOLEAN NOT NULL,
        request TEXT NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS ix_migrations_created ON migrations (created)",
    """
    CREATE TABLE IF NOT EXISTS records (
        migration VARCHAR(64) NOT NULL REFERENCES migrations (migration),
        sequence INTEGER NOT NULL,
        at VARCHAR(40) NOT NULL,
        spec_digest VARCHAR(64) NOT NULL,
        step VARCHAR(16) NOT NULL,
        phase VARCHAR(16) NOT NULL,
        name VARCHAR(64) NOT NULL,
        state VARCHAR(64) NOT NULL,
        dest VARCHAR(64) NOT NULL,
        error TEXT NOT NULL,
        observation TEXT,
        data TEXT NOT NULL,
        PRIMARY KEY (migration, sequence)
    )""",
    # The primary key is what forbids two unfinished migrations of one domain.
    """
    CREATE TABLE IF NOT EXISTS claims (
        domain_uuid VARCHAR(36) NOT NULL PRIMARY KEY,
        migration VARCHAR(64) NOT NULL REFERENCES migrations (migration)
    )""",
    # Who drives a migration. ``token`` grows with every engine that takes over; an older one may not write.
    """
    CREATE TABLE IF NOT EXISTS leases (
        migration VARCHAR(64) NOT NULL PRIMARY KEY REFERENCES migrations (migration),
        token INTEGER NOT NULL,
        holder TEXT NOT NULL
    )""",
    # The engines, and until when each counts as alive.
    """
    CREATE TABLE IF NOT EXISTS holders (
        holder VARCHAR(255) NOT NULL PRIMARY KEY,
        expires VARCHAR(40) NOT NULL
    )""",
    # What somebody asks of the engine that drives a migration.
    """
    CREATE TABLE IF NOT EXISTS requests (
        request INTEGER NOT NULL PRIMARY KEY,
        migration VARCHAR(64) NOT NULL REFERENCES migrations (migration),
        name VARCHAR(64) NOT NULL,
        data TEXT NOT NULL,
        at VARCHAR(40) NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS ix_requests_migration ON requests (migration)",
)
"""What an empty file is given."""
