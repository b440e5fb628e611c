// The circuit that the page holds, and nothing beside it.
"use strict";

document.getElementById("main").append(circuitView(JSON.parse(document.getElementById("data").textContent), null, () => null));
