"""The journal's tables. Nothing here is particular to one database."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Integer, MetaData, String, Table, Text

metadata = MetaData()
migrations = Table(
    "migrations",
    metadata,
    Column("migration", String(64), primary_key=True),
    Column("created", String(40), nullable=False, index=True),
    Column("updated", String(40)),
    Column("domain", Text, nullable=False),
    Column("domain_uuid", String(36), nullable=False),
    Column("source_uri", Text, nullable=False),
    Column("destination_uri", Text, nullable=False),
    Column("state", String(64), nullable=False),
    Column("heading_for", String(64), nullable=False),
    Column("final", Boolean, nullable=False),
    Column("request", Text, nullable=False),
)
records = Table(
    "records",
    metadata,
    Column("migration", ForeignKey("migrations.migration"), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("at", String(40), nullable=False),
    Column("spec_digest", String(64), nullable=False),
    Column("step", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("name", String(64), nullable=False),
    Column("state", String(64), nullable=False),
    Column("dest", String(64), nullable=False),
    Column("error", Text, nullable=False),
    Column("observation", Text),
    Column("data", Text, nullable=False),
)
# The primary key is what forbids two unfinished migrations of one domain, on every database alike.
claims = Table(
    "claims",
    metadata,
    Column("domain_uuid", String(36), primary_key=True),
    Column("migration", ForeignKey("migrations.migration"), nullable=False),
)
# Who drives a migration. ``token`` grows with every engine that takes over; an older one may not write.
leases = Table(
    "leases",
    metadata,
    Column("migration", ForeignKey("migrations.migration"), primary_key=True),
    Column("token", Integer, nullable=False),
    Column("holder", Text, nullable=False),
)
# The engines, and until when each counts as alive.
holders = Table(
    "holders",
    metadata,
    Column("holder", String(255), primary_key=True),
    Column("expires", String(40), nullable=False),
)
# What somebody asks of the engine that drives a migration.
requests = Table(
    "requests",
    metadata,
    Column("request", Integer, primary_key=True, autoincrement=True),
    Column("migration", ForeignKey("migrations.migration"), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("data", Text, nullable=False),
    Column("at", String(40), nullable=False),
)
