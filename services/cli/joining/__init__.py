"""What a new outlet needs: said in plain words, or written as a folder for its site, or as one more outlet of docker-compose.yml."""
