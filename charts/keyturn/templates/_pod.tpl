{{/* Parts that the receiver's pods and the pod of `helm test` share. */}}

{{- define "keyturn.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* Shared fields of the pod's spec. */}}
{{- define "keyturn.pod" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Shared fields of the container. */}}
{{- define "keyturn.container" -}}
image: {{ include "keyturn.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment variables from a dict. Empty strings are left out; 0 and false are kept. */}}
{{- define "keyturn.variables" -}}
{{- range $name, $value := . }}
{{- if ne (toString $value) "" }}
- {name: {{ $name }}, value: {{ kindIs "float64" $value | ternary (int64 $value) $value | toString | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* Variables that the receivers and the pod of `helm test` share: for AWS, the proxy and the signing keys. */}}
{{- define "keyturn.keysEnv" -}}
{{- include "keyturn.variables" (dict
  "AWS_REGION" .Values.aws.region
  "AWS_ENDPOINT_URL_SECRETS_MANAGER" .Values.aws.endpointUrl
  "AWS_USE_FIPS_ENDPOINT" (.Values.aws.fips | ternary "true" "")
  "HTTPS_PROXY" .Values.proxy.url
  "NO_PROXY" (join "," .Values.proxy.noProxy)
  "KEYTURN_DELIVERIES" .Values.deliveries.enabled
  "KEYTURN_SIGNING_KEY_SECRET_ID" .Values.signingKey.secretId
  "KEYTURN_SIGNING_PUBLIC_KEYS" (join "," .Values.signingKey.publicKeys)
  "KEYTURN_SIGNING_KEY_FILE" (.Values.signingKey.existingSecret.name | empty | ternary "" "/etc/keyturn/signing-key/signing-key")) }}
{{- end }}

{{/* Seconds between two sweeps of the poller. */}}
{{- define "keyturn.pollInterval" -}}
{{- $rare := and .Values.deliveries.enabled (eq .Values.poller.mode "describe") }}
{{- .Values.poller.intervalSeconds | default ($rare | ternary 1800 300) | int }}
{{- end }}

{{/* Whether the receivers can notice that no event arrives: "true" or "". */}}
{{- define "keyturn.heartbeats" -}}
{{- and .Values.deliveries.enabled (gt (int .Values.heartbeats.silenceSeconds) 0) | ternary "true" "" }}
{{- end }}

{{/* Seconds between two sweeps of the poller while no event arrives (MAX_INTERVAL_WITHOUT_EVENTS in poller.py). */}}
{{- define "keyturn.pollIntervalWithoutEvents" -}}
{{- $interval := include "keyturn.pollInterval" . | int }}
{{- eq (include "keyturn.heartbeats" .) "true" | ternary (min $interval 30) $interval }}
{{- end }}

{{/* Variables for the receiver's other settings (docs/settings.md). */}}
{{- define "keyturn.settingsEnv" -}}
{{- $tls := eq (include "keyturn.tls" .) "true" }}
{{- with .Values }}
{{- include "keyturn.variables" (dict
  "KEYTURN_SIGNING_KEY_INTERVAL_SECONDS" .signingKey.intervalSeconds
  "KEYTURN_POLICY_DEFAULT" .policy.default
  "KEYTURN_NAMESPACES" (join "," .namespaces)
  "KEYTURN_REGIONS" (join "," .aws.regions)
  "KEYTURN_TENANT_ROLES" .tenantRoles.enabled
  "KEYTURN_ROLLOUTS" .rollouts.enabled
  "KEYTURN_ROLLOUT_DEFAULT" .rollouts.default
  "KEYTURN_RELOADER" .rollouts.reloader
  "KEYTURN_MAX_UNFINISHED_PER_SECRET" .rollouts.maxUnfinished.perSecret
  "KEYTURN_MAX_UNFINISHED_PER_NAMESPACE" (.rollouts.maxUnfinished.perNamespace | default "")
  "KEYTURN_MAX_UNFINISHED_PER_CLUSTER" (.rollouts.maxUnfinished.perCluster | default "")
  "KEYTURN_WATCH_SECRETS" .rollouts.watchSecrets
  "KEYTURN_REPORT_READERS" .rollouts.reportReaders
  "KEYTURN_ARGO_ROLLOUTS" .rollouts.argoRollouts
  "KEYTURN_DELETIONS" .deletions.enabled
  "KEYTURN_POLL_INTERVAL_SECONDS" .poller.intervalSeconds
  "KEYTURN_POLL_MODE" .poller.mode
  "KEYTURN_HEARTBEAT_SILENCE_SECONDS" .heartbeats.silenceSeconds
  "KEYTURN_DEADLINE_SECONDS" .deliveries.deadlineSeconds
  "KEYTURN_MAX_DELIVERIES" .deliveries.maximum
  "KEYTURN_MAX_CONNECTIONS" .deliveries.maxConnections
  "KEYTURN_DRAIN_SECONDS" .drainSeconds
  "KEYTURN_STUCK_SECONDS" .stuckSeconds
  "KEYTURN_STATUS_PAGE" .statusPage.enabled
  "KEYTURN_STATUS_PAGE_PORT" .statusPage.port
  "KEYTURN_STATUS_PAGE_CLUSTER" .statusPage.clusterName
  "KEYTURN_CONCURRENCY" .work.concurrency
  "KEYTURN_KUBERNETES_REQUESTS" .work.kubernetesRequests
  "KEYTURN_AWS_THREADS" .work.awsThreads
  "KEYTURN_WATCH_SECONDS" .watches.seconds
  "KEYTURN_RESYNC_SECONDS" .watches.resyncSeconds
  "KEYTURN_LOG_LEVEL" .logLevel
  "KEYTURN_TRACES" .traces.enabled
  "OTEL_EXPORTER_OTLP_ENDPOINT" .traces.endpoint
  "KEYTURN_LEASE_NAMESPACE" $.Release.Namespace
  "KEYTURN_LEASE_NAME" (include "keyturn.fullname" $)
  "KEYTURN_TLS_CERTIFICATE_FILE" ($tls | ternary "/etc/keyturn/tls/tls.crt" "")
  "KEYTURN_TLS_KEY_FILE" ($tls | ternary "/etc/keyturn/tls/tls.key" "")) }}
{{- end }}
{{- end }}

{{- define "keyturn.keysMounts" -}}
{{- if .Values.signingKey.existingSecret.name }}
- {name: signing-key, mountPath: /etc/keyturn/signing-key, readOnly: true}
{{- end }}
{{- end }}

{{- define "keyturn.keysVolumes" -}}
{{- with .Values.signingKey.existingSecret }}
{{- if .name }}
- name: signing-key
  secret: {secretName: {{ .name | quote }}, defaultMode: 0440, items: [{key: {{ .key | quote }}, path: signing-key}]}
{{- end }}
{{- end }}
{{- end }}
