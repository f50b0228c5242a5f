#!/bin/sh
# Writes prometheus-rule.yaml, the alerts as the object that the Prometheus Operator takes, from alerts.yaml, a rule file that promtool and a
# plain Prometheus take. Kustomize cannot put one file into another; a test compares the two.
set -eu
cd "$(dirname "$0")"
{
    cat <<'YAML'
# The rules of alerts.yaml for the Prometheus Operator. Written by prometheus-rule.sh: change alerts.yaml and run that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: backhaul
spec:
YAML
    sed -e '/^#/d' -e 's/^./  &/' alerts.yaml
} >prometheus-rule.yaml
