-- The sample shop's database, and its application's user.
CREATE DATABASE IF NOT EXISTS `{{database}}` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS 'shop'@'%' IDENTIFIED BY '{{password}}';
GRANT ALL ON `{{database}}`.* TO 'shop'@'%';
