-- The sample shop's database, and its application's login.
IF DB_ID(N'{{database}}') IS NULL CREATE DATABASE [{{database}}];
IF SUSER_ID(N'shop') IS NULL CREATE LOGIN shop WITH PASSWORD = N'{{password}}';
USE [{{database}}];
-- a user that came with another server's backup belongs to nobody here:
IF USER_ID(N'shop') IS NULL CREATE USER shop FOR LOGIN shop ELSE ALTER USER shop WITH LOGIN = shop;
ALTER ROLE db_owner ADD MEMBER shop;
