"""Run inside the compose network (docker-compose.yml, profile test), where SUBAK_TEST_SHOPS names the folder of the outlets' databases."""
