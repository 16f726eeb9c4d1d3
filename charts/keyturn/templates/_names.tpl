{{/* Names, labels and annotations of the chart's objects. */}}

{{- define "keyturn.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "keyturn.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- /* At most 50 characters leave room for suffixes. A release name may contain dots, a Service name may not. */}}
{{- .Values.fullnameOverride | default $full | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* The option of the command line that names this release, after a space; empty for the one that it assumes. */}}
{{- define "keyturn.releaseOption" -}}
{{- $release := printf "%s/%s" .Release.Namespace .Release.Name }}
{{- if ne $release "keyturn/keyturn" }} --release {{ $release }}{{ end }}
{{- end }}

{{/* Name of the cluster-scoped objects. It is unique per release, because no namespace has a dot in its name. */}}
{{- define "keyturn.clusterName" -}}
{{- printf "%s.%s" .Release.Namespace (include "keyturn.fullname" .) }}
{{- end }}

{{- define "keyturn.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "keyturn.fullname" .) }}
{{- end }}

{{- define "keyturn.selector" -}}
app.kubernetes.io/name: {{ include "keyturn.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: receiver
{{- end }}

{{- define "keyturn.labels" -}}
{{- $own := dict
  "app.kubernetes.io/name" (include "keyturn.name" .)
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/part-of" "keyturn"
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- toYaml (merge $own .Values.commonLabels) }}
{{- end }}

{{/* The chart's labels together with those of one value; the chart's win. Argument: (list ROOT VALUE). */}}
{{- define "keyturn.labelsWith" -}}
{{- merge (include "keyturn.labels" (first .) | fromYaml) (last .) | toYaml }}
{{- end }}

{{/* The field `annotations` of metadata, from two dicts; the first wins. Renders nothing if both are empty. Argument:
(list FIRST SECOND). */}}
{{- define "keyturn.annotations" -}}
{{- with merge (first . | default dict | deepCopy) (last . | default dict) }}
  annotations: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* Whether the pods serve TLS: "true" or "". */}}
{{- define "keyturn.tls" -}}
{{- if or .Values.tls.secretName .Values.tls.certManager.enabled }}true{{ end }}
{{- end }}

{{- define "keyturn.tlsSecretName" -}}
{{- .Values.tls.secretName | default (printf "%s-tls" (include "keyturn.fullname" .)) }}
{{- end }}

{{/* Name and protocol of the Service's port. */}}
{{- define "keyturn.portName" -}}
{{- if or (include "keyturn.tls" .) .Values.nlb.certificateArn }}https{{ else }}http{{ end }}
{{- end }}

{{- define "keyturn.port" -}}
{{- .Values.service.port | default (eq (include "keyturn.portName" .) "https" | ternary 443 80) | int }}
{{- end }}

{{/* Protocol of the Service's port, which differs from its name where a load balancer ends TLS. */}}
{{- define "keyturn.appProtocol" -}}
{{- if include "keyturn.tls" . }}https{{ else }}http{{ end }}
{{- end }}

{{/* Port of the proxy; empty if there is no proxy, or if the NetworkPolicy lets the pods reach the port anyway. */}}
{{- define "keyturn.proxyPort" -}}
{{- with .Values.proxy.url }}
{{- $port := regexFind "[0-9]+$" (trimSuffix "/" .) }}
{{- if not (has $port (list "443" "6443")) }}{{ $port }}{{ end }}
{{- end }}
{{- end }}

{{/* Whether no controller may serve the Ingress, because neither it nor the cluster names a class: "true" or "". */}}
{{- define "keyturn.ingressWithoutClass" -}}
{{- with .Values.ingress }}
{{- if and .enabled (not .className) (not (hasKey .annotations "kubernetes.io/ingress.class")) }}
{{- $default := dict }}
{{- range (lookup "networking.k8s.io/v1" "IngressClass" "" "").items }}
{{- if eq (dig "metadata" "annotations" "ingressclass.kubernetes.io/is-default-class" "" .) "true" }}
{{- $_ := set $default "found" true }}
{{- end }}
{{- end }}
{{- if not $default }}true{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Labels of the pod of `helm test`. The Service must not select it. */}}
{{- define "keyturn.testSelector" -}}
app.kubernetes.io/name: {{ include "keyturn.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end }}
