-- Before a DELETE, or an UPDATE of columns that others refer to: notes the children that a cascading foreign key is about to
-- delete or change. The server does so without firing the children's triggers; the AFTER trigger of this table makes those
-- changes known from the notes (cascaded_rows.sql).
--
-- For the DBA: only on tables with such children. It reads them by the index of their foreign key, and locks what the cascade locks anyway.

CREATE TRIGGER {{trigger}} BEFORE {{event}} ON {{table}} FOR EACH ROW
BEGIN
    IF COALESCE(@subak_applier, 0) = 0 AND {{children_may_follow}} THEN
        DELETE FROM subak_cascaded WHERE SessionId = CONNECTION_ID() AND Parent = {{table_name}};
        {{notes}}
    END IF;
END
