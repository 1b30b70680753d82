-- Part of the triggers where the server names transactions (MySQL 8.0.16+, performance_schema readable by the user who installs
-- the triggers). The look-up costs some 45 µs, so it is made once per statement and kept in two user variables of the session.

IF NOT (@subak_at <=> v_now) THEN
            SET @subak_transaction = (
                SELECT CONCAT_WS('-', t.THREAD_ID, t.EVENT_ID, t.TIMER_START)
                FROM performance_schema.events_transactions_current AS t
                WHERE t.THREAD_ID = PS_CURRENT_THREAD_ID() AND t.STATE = 'ACTIVE'
            );
            SET @subak_at = v_now;
        END IF;
        SET v_transaction = @subak_transaction;
