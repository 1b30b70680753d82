"""`subak setup`: what the containers of docker-compose.yml do before the services start; safe to do again at every start."""
