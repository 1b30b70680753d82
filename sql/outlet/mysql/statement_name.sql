-- Part of the triggers on MariaDB, which has no name for a transaction that a trigger could read. It does tell whether one is
-- open: outside of one, the statement is a transaction by itself, and its session and time name it.

SET v_transaction = IF(@@in_transaction, NULL, CONCAT_WS('-', CONNECTION_ID(), v_now));
