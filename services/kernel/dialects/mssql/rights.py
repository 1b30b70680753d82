"""What Subak's login must be allowed to do, and no more, as an administrator of the database gives it.

- The schema belongs to dbo, as the application's tables do: by that chain of ownership the triggers write there
  whoever fires them, and the application's logins need no rights on it. A login with rights on the schema only is not its owner.
- CREATE TRIGGER, SET IDENTITY_INSERT and sp_settriggerorder each ask for ALTER on the table, for which a grant on its
  schema stands too. Whoever may put a trigger on a table can run code as whoever writes to it: keep the password accordingly.
- REFERENCES is for the defaults of Subak's own tables, which draw from its sequences.
- VIEW DEFINITION shows foreign keys to tables, and triggers, that it has no other right on. It shows no row.
- DBCC CHECKIDENT, which sets an IDENTITY back after rows from other outlets, can be granted to nobody but by a role.

https://learn.microsoft.com/sql/relational-databases/security/permissions-database-engine
"""

from __future__ import annotations

SETUP = """\
    CREATE LOGIN subak WITH PASSWORD = N'<password>';
    USE [<database>];
    CREATE USER subak FOR LOGIN subak;
    GO
    CREATE SCHEMA subak AUTHORIZATION dbo;
    GO
    GRANT ALTER, REFERENCES, SELECT, INSERT, UPDATE, DELETE ON SCHEMA::subak TO subak;
    GRANT CREATE TABLE TO subak;
    GRANT VIEW DEFINITION TO subak;
    GRANT ALTER, SELECT, INSERT, UPDATE, DELETE ON SCHEMA::dbo TO subak;  -- or ON each table; other schemas likewise
    ALTER ROLE db_ddladmin ADD MEMBER subak;  -- only where tables have an IDENTITY column
"""
