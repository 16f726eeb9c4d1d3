{{/* The names and labels of what the chart makes. */}}

{{- define "keyturn.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "keyturn.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- /* Room for what is put behind it; and no dots, which a release's name may have and a Service's may not. */}}
{{- .Values.fullnameOverride | default $full | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Of what lies in no namespace: no two releases may share it. No namespace has a dot in its name. */}}
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

{{/* The chart's labels and those of one value; the chart's win. Takes a list of the root context and the value. */}}
{{- define "keyturn.labelsWith" -}}
{{- merge (include "keyturn.labels" (first .) | fromYaml) (last .) | toYaml }}
{{- end }}

{{/* The field `annotations` of metadata, if there are any. Takes a list of two dicts; the first wins. */}}
{{- define "keyturn.annotations" -}}
{{- with merge (first . | default dict | deepCopy) (last . | default dict) }}
  annotations: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* Whether the pods serve TLS: a truth value as text. */}}
{{- define "keyturn.tls" -}}
{{- if or .Values.tls.secretName .Values.tls.certManager.enabled }}true{{ end }}
{{- end }}

{{- define "keyturn.tlsSecretName" -}}
{{- .Values.tls.secretName | default (printf "%s-tls" (include "keyturn.fullname" .)) }}
{{- end }}

{{/* What the Service's port is called, and what is spoken there. */}}
{{- define "keyturn.portName" -}}
{{- if or (include "keyturn.tls" .) .Values.nlb.certificateArn }}https{{ else }}http{{ end }}
{{- end }}

{{- define "keyturn.port" -}}
{{- .Values.service.port | default (eq (include "keyturn.portName" .) "https" | ternary 443 80) | int }}
{{- end }}

{{/* The pod of `helm test`, which the Service must not lead to. */}}
{{- define "keyturn.testSelector" -}}
app.kubernetes.io/name: {{ include "keyturn.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end }}
