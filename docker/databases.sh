#!/bin/sh
# Run once by Postgres' image, on an empty volume: a database and a user for each server.
set -eu
for name in mlflow prefect; do
  case $name in
    mlflow) password=$MLFLOW_DATABASE_PASSWORD ;;
    prefect) password=$PREFECT_DATABASE_PASSWORD ;;
  esac
  # By standard input: arguments can be read by everyone.
  psql --username postgres --set ON_ERROR_STOP=1 --quiet <<SQL
create role $name login password '$password';
create database $name owner $name;
revoke connect on database $name from public;
SQL
done
