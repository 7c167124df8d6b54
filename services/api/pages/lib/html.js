// Preact with htm in one place: pages import from here, never from the vendored files.
// What comes from outside reaches the document as text nodes and attributes only.
import { Fragment, h, render } from "../vendor/preact.js";
import {
  useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState,
} from "../vendor/preact-hooks.js";
import htm from "../vendor/htm.js";

export const html = htm.bind(h);
export { Fragment, render, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState };
