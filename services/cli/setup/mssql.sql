-- Subak's login on SQL Server: what it needs and no more. As an administrator, once.
-- A login of that name that is there already, from an earlier folder, keeps its password: ALTER LOGIN ... WITH PASSWORD = the one below.
-- For another outlet on the same server: give this one's another name, here and in database-url.
IF SUSER_ID(N'subak') IS NULL CREATE LOGIN subak WITH PASSWORD = N'{{password}}';
USE [{{database}}];
-- a user that came with another server's backup belongs to nobody here:
IF USER_ID(N'subak') IS NULL CREATE USER subak FOR LOGIN subak ELSE ALTER USER subak WITH LOGIN = subak;
IF SCHEMA_ID(N'subak') IS NULL EXEC (N'CREATE SCHEMA subak AUTHORIZATION dbo');
GRANT ALTER, REFERENCES, SELECT, INSERT, UPDATE, DELETE ON SCHEMA::subak TO subak;
GRANT CREATE TABLE TO subak;
GRANT VIEW DEFINITION TO subak;
-- or on each table; other schemas likewise:
GRANT ALTER, SELECT, INSERT, UPDATE, DELETE ON SCHEMA::dbo TO subak;
-- only where tables have an IDENTITY column:
ALTER ROLE db_ddladmin ADD MEMBER subak;
ALTER DATABASE [{{database}}] SET ALLOW_SNAPSHOT_ISOLATION ON;
