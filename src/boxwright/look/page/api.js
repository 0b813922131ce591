// Requests to the server that served this page. Addresses are relative: the page lies below the token.

class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Address of a route; empty parameters are left out, arrays repeat the name. */
export function url(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) if (one !== "" && one !== null && one !== undefined) query.append(name, one);
  }
  const text = query.toString();
  return `api/${path}${text ? `?${text}` : ""}`;
}

async function request(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is `boxwright look` still running?", 0);
  }
  let content = null;
  try {
    content = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (response.ok && content !== null) return content;
  throw new ApiError(content?.error ?? `The server answered with status ${response.status}.`, response.status);
}

export function get(path, parameters, signal) {
  return request(url(path, parameters), { signal, headers: { "X-Boxwright": "1" } });
}

export function post(path, body) {
  const headers = { "X-Boxwright": "1", "Content-Type": "application/json" };
  return request(url(path), { method: "POST", headers, body: JSON.stringify(body) });
}
