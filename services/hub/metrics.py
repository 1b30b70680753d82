"""What Prometheus is told of the hub. Names end in their base unit."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

BATCHES = Counter("subak_hub_batches", "Batches stored.")
CHANGES = Counter("subak_hub_changes", "Row changes in the batches stored.")
STORED_BYTES = Counter("subak_hub_stored_bytes", "Bodies of the batches stored.")
EXECUTED = Counter("subak_hub_executed", "Deliveries that the outlet has executed.", ["outlet"])
COMMITS = Counter("subak_hub_commits", "Transactions in which batches or acknowledgements were stored.")
WAITING = Gauge("subak_hub_deliveries_waiting", "Deliveries owed and not executed.", ["outlet"])
OLDEST_WAITING = Gauge(
    "subak_hub_oldest_waiting_seconds", "Age of the oldest delivery that waits; 0: none.", ["outlet"]
)
QUARANTINED = Gauge("subak_hub_quarantined_transactions", "Transactions the outlet reports as quarantined.", ["outlet"])
CONFLICTS = Gauge("subak_hub_conflicts", "Conflicts the outlet reports.", ["outlet"])
CERTIFICATE_EXPIRY = Gauge(
    "subak_hub_certificate_expiry_timestamp_seconds",
    "End of the certificate that the outlet has shown last, in seconds since 1970 UTC.",
    ["outlet"],
)
CONNECTED = Gauge("subak_hub_connected", "1: the outlet is connected in that role.", ["outlet", "role"])
PAUSED = Gauge("subak_hub_paused", "1: broadcasting is paused.")
LIMIT = Gauge("subak_hub_offline_limit_ratio", "Part of the nearer limit that waits; at 1 it is given up.", ["outlet"])
RESYNC = Gauge("subak_hub_resync", "1: the outlet was given up, and needs a newer database.", ["outlet"])
SKEW = Gauge("subak_hub_clock_skew_seconds", "The hub's clock less that of the outlet's database.", ["outlet"])
