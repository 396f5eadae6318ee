# The directml environment as a venv on a Windows host: what the Dockerfile makes, from the same lock.
#   powershell -ExecutionPolicy Bypass -File containers\directml\install.ps1 -Venv C:\onnxmake\directml
# Needs 64-bit Python 3.11 (`py -3.11`). -Lock windowsml.lock takes Windows ML in place of onnxruntime-directml.
param(
    [string] $Venv = (Join-Path $PSScriptRoot 'venv'),
    [string] $Lock = (Join-Path $PSScriptRoot 'requirements.lock')
)
$ErrorActionPreference = 'Stop'

function Invoke-Checked([string] $Program, [string[]] $Arguments) {
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0) { throw "$Program $($Arguments -join ' ') ended with exit code $LASTEXITCODE" }
}

$digest = (Get-FileHash -Algorithm SHA256 $Lock).Hash
$ready = Join-Path $Venv 'ready'
if ((Test-Path $ready) -and ((Get-Content $ready) -eq $digest)) { return }  # made from this very lock

if (Test-Path $Venv) { Remove-Item -Recurse -Force $Venv }
Invoke-Checked 'py' @('-3.11', '-m', 'venv', $Venv)
$python = Join-Path $Venv 'Scripts\python.exe'
Invoke-Checked $python @(
    '-m', 'pip', 'install', '--disable-pip-version-check', '--no-input',
    '--no-deps', '--require-hashes', '--only-binary=:all:', '-r', $Lock
)
Set-Content -Path $ready -Value $digest
