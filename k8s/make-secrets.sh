#!/bin/sh
# Makes the two Secrets that the manifests name, once; what is there already is never replaced.
# Usage: k8s/make-secrets.sh [options of kubectl], with the project's Python (PYTHON, .venv) and kubectl.
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-.venv/bin/python}" -m shared.base.secret_files "$folder"
for part in platform servers; do
  kubectl create secret generic "ryan-gpt-$part" --namespace ryan-gpt --from-file="$folder/$part" "$@"
done
